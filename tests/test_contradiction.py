"""Claims about comparisons in the words of many judges: one that calls something other is no ground for the same."""

from __future__ import annotations

import pytest

from dsd.curate.contradiction import contradiction
from dsd.curate.schemas import PairVerdict

AGREEING = """
fur: orange stripes in both - same; collar: red with bell - same; pose: sitting vs lying - different (pose only)
eyes: same; beak: same; feather pattern: same; size in frame: larger in second (closer camera)
colour of the fur: same; stripes: same; hat: same
Colour of the fur: same (orange tabby); eyes: same (green); collar: same (red leather with a bell).
1. Fur colour: identical\\n2. Eye colour: identical\\n3. Collar: matches\\n4. Number of legs: same
- **Fur**: same\\n- **Eyes**: same\\n- **Hat**: same red wool hat with a white pom-pom
Fur: the same; eyes: exactly the same; markings: consistent; accessories: none in either
fur colour: same, eye colour: same, collar: same
hat = same; fur = same
hat → same; fur → identical
hat (same); fur (same)
hat - same; scarf - same
hat: ✓; fur: ✓; eyes: ✓
fur: yes; hat: yes; eyes: true
colour: same; pose: different; background: different; light: different
Both cats have orange fur and green eyes; the pose differs.
Both cats have orange fur and green eyes, the pose differs.
The background is different, but the cat is the same.
The background, the lighting and the pose are different.
Only the viewpoint differs.
They differ only in pose and background.
Both pictures show the same cat with the same orange fur. Only the setting and the camera angle are different.
The two images show identical features: a brown teddy bear with a red bow, black button eyes and a stitched smile.
No differences in lasting features.
There are no visible differences between the two subjects.
I see no difference in colour, pattern or proportions.
Nothing about the robot differs between the pictures.
None of the lasting features is different.
The subject does not differ in any lasting feature.
The fur is not different in colour.
The hat has not changed. The scarf is unchanged.
Without a doubt the same individual.
There is no doubt that they are the same cat.
Nothing suggests that they are not the same individual.
fur: same; tail: not visible in the second picture; ears: same
fur: same; hat: absent in both; scarf: none in either
accessories: no accessories in either; colour: same blue
The colours look slightly different due to the lighting. The pattern is the same.
The same individual in different poses and in different places.
These are two different pictures of the same cat.
Two different photographs of one dog, from different angles.
Fur: orange tabby with a white chest; eyes: green; collar: red
body shape: same; wheels: both have four; paint: same metallic red; style of drawing: same
Both have a distinct white patch over the left eye, which matches.
The distinctive star-shaped mark is present in both pictures.
hair: same long black hair; glasses: same round glasses; coat: same; expression: different (smiling vs neutral)
face: same; hair: same, only the position of the hands is different
The cat's pose differs, while its fur, its eyes and its collar are all the same.
While the scenes are different, the mug is identical in shape, handle, glaze and logo.
All lasting features match: the colour of the fur, the pattern of the stripes, the shape of the ears.
The fur is the same and the pose is different.
They have the same fur and different poses.
The subject is identical apart from its pose.
Identical except for the background.
overall: same; colour: same; no discrepancies
colour: no difference; pattern: no visible differences; size: not noticeably different
Same individual; different lighting; different background.
kind: same (cat)\\nfur: same (grey, short)\\neyes: same (yellow)\\nconclusion: the same individual
fur：same；eyes：same
Each feature agrees. The pictures vary in viewpoint alone.
style of drawing: same (watercolour); colours: same; proportions: similar
The dog has the same brown coat, white muzzle and floppy ears in both images, although it sits in one.
In both images the woman has red hair, freckles and a green scarf. Her expression changes from a smile to a frown.
Fur color: same - orange with white chest; eye color: same - green; ear shape: same - pointed
Colour of the body: same, matte red; number of wheels: same, four; antenna: same, one, slightly bent
The proportions are the same; the perceived size differs because of the camera distance.
Eyes: same colour (closed in the second picture); fur: same; collar: same
The mug is turned, so the logo is only partly visible in the second picture; what can be seen of it matches.
All features are the same in both pictures: no changes in clothes, hair or accessories.
The main difference is the background.
The only differences are the pose and the lighting.
The only difference is in the background and the time of day.
Pose: sitting vs. lying down; fur: same
colour: same; facial expression: happy in the first and neutral in the second; hat: same
Differences in pose and lighting do not affect identity. The markings are identical.
Despite the different settings, the robot is the same.
Although the lighting differs, all lasting features are consistent.
Hair color and style: same; clothing: same red jacket and jeans; age: same; build: same
Both have two differently coloured eyes, one blue and one green.
The toy looks the same; its left arm is raised in the second picture only.
Colors: same (yellow body, orange beak). Proportions: same. Pattern: none in both. Accessories: same (blue scarf).
There is nothing that differs between them apart from the viewpoint.
The vase has the same cobalt pattern, with the crack missing in neither.
size: same; angle: different; markings: same; lighting: brighter in the second
The comparison shows: fur same, eyes same, collar same.
Comparing point by point:\\n- colour: same\\n- hat: same\\n\\nAll points are the same.
fur: matching; eyes: matching; overall impression: one and the same dog
Every lasting feature matches; minor variations in shading come from the light.
Note: the tail is hidden in the first picture; fur: same; ears: same
The same character is shown from different sides; the outfit (red cape, blue boots) is unchanged.
One picture is a close-up, the other one a full view. The features match.
skin: same; hair: same; clothes: same, apart from the folds caused by movement
kind of animal: cat in both; fur colour: grey in both; eye colour: yellow in both
""".strip().splitlines()

DISAGREEING = """
pose: sitting vs lying - different; hat: red vs blue - different
hat: different eyes: same
colour of the fur: same; hat: does not match
hat: not identical; eyes: mismatched
These are two distinct cats.
fur: same; hat: no match
fur: same; hat: not matching
fur: same; hat: dissimilar
fur: same; hat: distinct
fur: same; hat: changed
fur: same; hat: missing
fur: same; hat: absent in the second
fur: same; hat: False
fur: same; hat: ✗
fur: same; hat: ❌
fur: same; hat: not equal
fur: same; hat: not quite the same
fur: same; hat: inconsistent
fur: same; hat: varies
fur: same; hat: red vs blue
hat: red vs. blue
fur: same; hat: totally different
fur: same; hat: entirely different
fur: same; hat: noticeably different
fur: same; hat: partially different
fur: same; hat: is different
fur: same; hat: a different colour
fur: same; hat: they are different
fur: same; hat: no
fur: same; hat: hm
fur: same; hat: only in the first picture
fur: same; hat: doesn't match
fur: same; hat: isn’t the same
fur: same; hat: same shape, different colour
fur: same; hat: different, though the same shape
fur: same; hat: different (same shape)
fur: same; hat: red in the first, blue in the second; different
hat: **different**; fur: **same**
**hat**: DIFFERENT
hat: "different"
hat: “different”
hat：different
fur：same；hat：different
hat = different
hat = different; fur = same
hat → different
hat -> different
hat (different)
fur (same); hat (different)
hat - other
hat – different
| hat | different |
hat: different, fur: same
fur: same, hat: different
fur: same, hat: different, eyes: same
hat: mismatch, fur: same, eyes: same
Not the same.
No.
No, these are not the same individual.
The hat isn't the same.
The hats do not match.
The hats don't match.
different individuals
Different.
They are different cats.
They are not the same cat.
nothing is the same
None of the features match.
No two features are the same.
same: false
verdict: false
Verdict: different
Therefore not the same.
So false.
One cannot be the other.
The cats differ.
The hat and the pose differ.
The fur is the same and the hat is different.
The background, hat and eyes are different.
Both have orange fur, but the collar is missing in the second picture.
Identical except for the hat.
They have the same fur and different collars.
The stripes are not identical.
The eyes have different colours.
The two subjects are dissimilar.
The patterns are inconsistent with one individual.
fur: same\\nstripes: differ in number\\nhat: same
Two separate individuals of one breed.
colour: same; number of legs: four vs three
The first is a cat; the second is another animal, not the same.
The cat in the second picture is a different animal in a different place.
The lighting is the same, the fur is different.
The horn is different in the second picture.
The horn of the second image is not the same.
The first image shows a bell; it is missing in the second image.
The only difference is the colour of the hat.
The main difference is the length of the tail.
There is a difference in the number of buttons.
There are differences between the two.
fur: same; hat: red hat in the first picture, no hat in the second picture
fur: same; hat: present only in the first
hat: other; hat: same
The hat's colour is different.
fur same, hat different
fur: same / hat: different
Fur color matches but eye color does not.
The eyes are green in the first picture and blue in the second picture, so they differ.
hat: same? no
hat: unlike
hat: DIFFERENT.
hat :different
• hat: different • fur: same
hat: not same
hat: is not the same one
Hat: Different!
hat: ≠
The collar is different in colour.
The collar has a different colour in the second picture.
They look similar but are not the same individual.
Not identical.
fur: same; hat: nope
fur: same; hat: N
the subjects do not match
They're different.
The cats aren't the same.
These aren't the same cats.
hat: unmatched; fur: same
fur: same; hat: has changed colour
hat: different colours; fur: same
fur: same; eyes: disagree
The markings disagree.
hat: opposite; fur: same
no match
mismatch
hat has changed from red to blue
hat: differs from first to second
hat: differing
""".strip().splitlines()

SHARED_NOTHING = """
nothing|None.|no subject|no shared subject|nothing in common|n/a|N.A.|"nothing"|nothing at all|none of them|
different subjects|two different cats|there is none|No common subject.|**none**|nothing shared|neither|null""".replace(
    "\n", ""
).split("|")


def verdict(comparison: str, same: bool = True, subject: str = "a cat") -> PairVerdict:
    return PairVerdict(
        common_subject=subject,
        first_details="red fur",
        second_details="red fur",
        comparison=comparison.replace("\\n", "\n"),
        same=same,
    )


@pytest.mark.parametrize("comparison", AGREEING)
def test_a_comparison_that_agrees_contradicts_nothing(comparison: str) -> None:
    assert contradiction(verdict(comparison)) == ""


@pytest.mark.parametrize("comparison", DISAGREEING)
def test_a_comparison_that_says_other_contradicts_a_verdict_for_the_same(comparison: str) -> None:
    assert contradiction(verdict(comparison))
    assert not contradiction(verdict(comparison, same=False))


@pytest.mark.parametrize("subject", SHARED_NOTHING)
def test_pictures_that_share_no_subject_do_not_show_the_same_one(subject: str) -> None:
    assert contradiction(verdict("fur: same", subject=subject))
    assert not contradiction(verdict("hat: other", same=False, subject=subject))


@pytest.mark.parametrize(
    "subject", ["a no-name teddy bear", "a cat", "different-eyed cat", "the same red robot", "noodles"]
)
def test_a_subject_is_shared(subject: str) -> None:
    assert not contradiction(verdict("fur: same", subject=subject))


def test_an_answer_that_is_neither_counts_among_those_that_are_tolerated() -> None:
    comparison = verdict("fur: same; hat: hm; eyes: same; ears: same")
    assert "hat" in contradiction(comparison)
    assert not contradiction(comparison, tolerated=0.25)


@pytest.mark.parametrize("piece", [":", "a:", "not ", "no a ", "hat: no, ", "the ", "- ", "is, and ", "the cat is, "])
def test_the_longest_comparison_is_judged_in_a_moment(piece: str) -> None:
    for _ in range(3):
        contradiction(verdict("a" + (piece * 2000)[:1990]))
