"""The paper's tables in the drawn world: what they are made of, how they are made, and the document that shows them."""
