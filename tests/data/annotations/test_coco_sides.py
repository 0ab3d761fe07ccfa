"""Which keypoints change places in a mirror: told by their names, given, or asked for."""

import pytest

from nlnet.data.annotations.coco_categories import PERSON
from nlnet.data.annotations.coco_sides import mirrored
from nlnet.errors import UserError

PAIRS = [
    ("left_eye", "right_eye"),
    ("Right Shoulder", "Left Shoulder"),
    ("L_Eye", "R_Eye"),
    ("eyeL", "eyeR"),
    ("Eye_Left", "Eye_Right"),
    ("EYE LEFT", "EYE RIGHT"),
    ("NearForeHoof", "OffForeHoof"),
    ("Nearknee", "Offknee"),
    ("near eye", "off eye"),
    ("lefteye", "righteye"),
    ("eyeleft", "eyeright"),
    ("leye", "reye"),
    ("kneel", "kneer"),
    ("LShoulder", "RShoulder"),
    ("kneeLeft2", "kneeRight2"),
    ("l-knee", "r-knee"),
    ("eye.l", "eye.r"),
    ("eye (left)", "eye (right)"),
    ("L1", "R1"),
    ("left eye, left corner", "right eye, right corner"),
    ("oreille gauche", "oreille droite"),
    ("Linkes Auge", "Rechtes Auge"),
    ("左眼", "右眼"),
]


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_names_tell_left_from_right(left: str, right: str) -> None:
    assert mirrored([left, "nose", right], None, "here") == (2, 1, 0)
    assert mirrored([right, left], None, "here") == (1, 0)


def test_many_names_at_once() -> None:
    """Of COCO's persons, and of a horse with legs before and behind: a mirror twice is none."""
    horse = ["Nose", "Near Fore Hoof", "Off Fore Hoof", "Near Hind Hoof", "Off Hind Hoof", "Tail"]
    assert mirrored(horse, None, "") == (0, 2, 1, 4, 3, 5)
    for names in (PERSON, horse, [name for pair in PAIRS[:1] for name in pair]):
        found = mirrored(names, None, "")
        assert [found[k] for k in found] == list(range(len(names)))
    assert mirrored(PERSON, None, "")[1:] == tuple(k + 1 if k % 2 else k - 1 for k in range(1, 17))
    assert mirrored(["tip"], None, "") == (0,)
    assert mirrored([], None, "") == ()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["1", "2", "3"], "keypoint '1' and the others do not tell left from right"),
        (["nose", "tail"], "keypoint 'nose' and the others do not tell"),
        (["left_eye", "right_eye", "left_ear"], "keypoint 'left_ear' has no counterpart"),
        (["left_hand"], "keypoint 'left_hand' has no counterpart"),
        (["leftear", "nose"], "keypoint 'leftear' has no counterpart"),
        (["left_sholder", "right_shoulder", "left_eye", "right_eye"], "keypoint 'left_sholder' has no counterpart"),
    ],
)
def test_where_they_do_not_the_user_is_asked(names: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        mirrored(names, None, "here")
    assert "data.flip_pairs=[[NAME,NAME],...] ([] for none), or set data.flip=false" in str(raised.value)
    assert mirrored(names, [], "here") == tuple(range(len(names)))


def test_pairs_are_given() -> None:
    assert mirrored(["a", "b", "c"], [["c", "a"]], "") == (2, 1, 0)
    assert mirrored(["1", "2"], [[1, 2]], "") == (1, 0)
    assert mirrored(["left_a", "right_a"], [], "") == (0, 1)
    for pairs, words in (
        ([["a", "x"]], "no keypoint 'x'"),
        ([["a"]], r"\['a'\] is no pair"),
        ([["a", "a"]], "is no pair"),
        (["ab"], "'ab' is no pair"),
        ([["a", "b"], ["b", "c"]], "'b' is in two pairs"),
    ):
        with pytest.raises(UserError, match=f"data.flip_pairs: .*{words}"):
            mirrored(["a", "b", "c"], pairs, "")
