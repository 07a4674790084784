// Small pictures are enlarged with crisp pixels, large ones smoothly.
document.addEventListener("load", (event) => {
  const image = event.target;
  if (image instanceof HTMLImageElement) image.classList.toggle("dsd-crisp", image.naturalWidth > 0 && image.naturalWidth <= 256);
}, true);
// What Gradio says for a moment in a corner stays readable where the page says all that went wrong.
function tell(said) {
  const place = document.querySelector("#dsd-message .prose, #dsd-message");
  if (!place) return false;
  const words = document.createElement("div");
  words.className = "dsd-words dsd-wrong";
  words.setAttribute("role", "alert");
  words.textContent = said;
  place.replaceChildren(words);
  return true;
}
new MutationObserver((changes) => {
  for (const change of changes) for (const node of change.addedNodes) {
    const toast = node.nodeType === 1 && (node.matches(".toast-body.error") ? node : node.querySelector(".toast-body.error"));
    if (!toast) continue;
    const said = (toast.querySelector(".toast-text") || toast).textContent.replace(/^\s*Error\s*×?\s*/, "").trim();
    const told = tell(/file type/i.test(said)
      ? "That file is not a picture that can be read; give a PNG, JPEG or WebP file"
      : /connection/i.test(said) ? "The connection to the server was lost; wait a moment, or load the page again"
      : said || "The server did not answer; try again");
    if (!told) continue;
    toast.style.display = "none";
  }
}).observe(document.documentElement, { childList: true, subtree: true });
// On a phone the pictures are below: go there when they are asked for.
document.addEventListener("click", (event) => {
  if (innerWidth <= 640 && event.target.closest("#dsd-draw, .dsd-actions button:first-child"))
    document.querySelector(".dsd-given")?.scrollIntoView({ behavior: "smooth" });
});
