"""Detections on images."""

import numpy as np
import torch

from nlnet.prediction.drawing import COLORS, draw, image_grid

IMAGE = np.full((60, 80, 3), 10, np.uint8)
ONE = {"boxes": torch.tensor([[20.0, 30.0, 50.0, 55.0]]), "labels": torch.tensor([2]), "scores": torch.tensor([0.8])}
COLOR = np.array(COLORS[1])


def test_a_box_has_the_color_of_its_class_and_the_image_is_left_alone():
    drawn = draw(IMAGE, ONE, classes=["a", "b"])
    for x, y in ((20, 40), (50, 40), (35, 55)):
        assert (drawn[y, x] == COLOR).all()
    assert (drawn[45, 35] == 10).all()
    assert (IMAGE == 10).all()


def test_what_scores_less_is_not_drawn_and_truth_has_no_scores():
    assert (draw(IMAGE, ONE, classes=["a", "b"], threshold=0.81) == IMAGE).all()
    truth = {name: ONE[name] for name in ("boxes", "labels")}
    assert (draw(IMAGE, truth, classes=["a", "b"], threshold=2) != IMAGE).any()


def test_masks_are_tinted_where_they_are():
    mask = torch.zeros(1, 1, 60, 80)
    mask[0, 0, 40:50, 25:35] = 0.5
    drawn = draw(IMAGE, ONE | {"masks": mask}, classes=["a", "b"])
    plain = draw(IMAGE, ONE, classes=["a", "b"])
    changed = (drawn != plain).any(2)
    assert changed[40:50, 25:35].all()
    assert changed.sum() == 100


def test_limbs_join_points_that_are_there():
    points = torch.tensor([[[25.0, 35.0, 1.0], [45.0, 35.0, 1.0], [30.0, 50.0, 0.0]]])
    drawn = draw(IMAGE, ONE | {"keypoints": points}, classes=["a", "b"], skeleton=[(0, 1), (1, 2)])
    assert (drawn[35, 26:44] == COLOR).all(1).mean() > 0.8
    assert (drawn[50, 30] == 10).all()  # the third is not there
    assert (drawn[43, 37] == 10).all()  # and so is no limb to it


def test_nothing_to_draw_and_an_image_grid():
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "masks": torch.zeros(0, 60, 80)}
    assert (draw(IMAGE, nothing, classes=[]) == IMAGE).all()
    sheet = image_grid([[IMAGE, IMAGE], [IMAGE]])
    assert sheet.shape == (124, 164, 3)
    assert (sheet[61] == 255).all()
    assert (sheet[64:, :80] == 10).all()
