"""Detectors: torchvision's to the bit until their blocks are trained, with the blocks where the paper has them."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.detection import KeypointRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import resnet18, resnet50

from helpers.detection import batch, demo_net, images
from nlnet.checkpoints.detection import load_backbone, load_detector
from nlnet.errors import UserError
from nlnet.layers import GlobalContextBlock, NonLocalBlock
from nlnet.models.detection.build import build_detector
from nlnet.models.detection.resized import detect, losses
from nlnet.models.detection.summary import describe_detector

BLOCKS = {"nonlocal_blocks": 1, "context_stages": ["res3", "res4", "res5"]}
SIZES = {"min_size": 64, "max_size": 128}


def float_images(count=2):
    return [image.float() / 255 for image in images(count)]


def every_detection(net):
    """Random weights are sure of nothing: let all pass."""
    net.roi_heads.score_thresh, net.roi_heads.detections_per_img = 0.0, 10
    return net.eval()


def torchvision_backbone():
    """With frozen norms, as torchvision trained its COCO files."""
    return resnet_fpn_backbone(backbone_name="resnet50", weights=None)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """torchvision's Mask R-CNN for 91 classes and its Keypoint R-CNN with random weights, and their files."""
    torch.manual_seed(3)
    made = {}
    for kind, make, classes in (("mask", MaskRCNN, 91), ("keypoint", KeypointRCNN, 2)):
        net = every_detection(make(torchvision_backbone(), classes, **SIZES))
        for name, buffer in net.named_buffers():  # not the identity that random frozen norms are
            if "running_var" in name:
                buffer.uniform_(0.5, 2)
        path = tmp_path_factory.mktemp("weights") / f"{kind}.pth"
        torch.save(net.state_dict(), path)
        made[kind] = net, path
    return made


@pytest.mark.parametrize(
    ("kind", "classes", "blocks"),
    [("mask", 90, BLOCKS), pytest.param("keypoint", 1, {"head_blocks": 4}, marks=pytest.mark.full)],
)
def test_a_torchvision_file_gives_bit_equal_detections_until_the_blocks_are_trained(theirs, kind, classes, blocks):
    reference, path = theirs[kind]
    ours = build_detector(f"{kind}_rcnn", "r50", num_classes=classes, **SIZES, **(blocks | {"nonlocal_blocks": 1}))
    said = load_detector(ours, path)
    new = said.partition("; new: ")[2].split(", ")
    assert "backbone.body.layer3.5.nonlocal_before" in new or new[-1] == "8 more"
    assert len(new) == (7 if kind == "mask" else 5)
    state = ours.state_dict()
    assert all(torch.equal(state[key], value) for key, value in reference.state_dict().items())
    others = state.keys() - reference.state_dict().keys()
    assert all(".nonlocal_" in key or ".global_context." in key for key in others)
    with torch.no_grad():
        expected, found = reference(float_images()), every_detection(ours)(float_images())
    for one, other in zip(expected, found, strict=True):
        assert len(one["boxes"]) == 10
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    block = ours.backbone.body.layer3[5].nonlocal_before if kind == "mask" else ours.roi_heads.keypoint_head[3]
    block = block if kind == "mask" else block.nonlocal_after
    with torch.no_grad():
        nn.init.normal_(block.out.weight)
        changed = ours(float_images())
    name = "boxes" if kind == "mask" else "keypoints_scores"
    assert not torch.equal(changed[0][name], expected[0][name])


def test_files_from_before_torchvision_0_13_are_read(theirs, tmp_path):
    net, _ = theirs["mask"]
    old = {}
    for key, value in net.state_dict().items():
        key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if ".fpn." in key else key
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if key.startswith("roi_heads.mask_head."):
            layer, _, name = key.removeprefix("roi_heads.mask_head.").split(".")
            key = f"roi_heads.mask_head.mask_fcn{int(layer) + 1}.{name}"
        old[key] = value
    old["backbone.body.bn1.num_batches_tracked"] = torch.tensor(3)
    assert len(old.keys() - net.state_dict().keys()) == 27
    torch.save(old, tmp_path / "old.pth")
    ours = build_detector("mask_rcnn", "r50", num_classes=90)
    load_detector(ours, tmp_path / "old.pth")
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in ours.state_dict().items())


def test_other_classes_start_anew_and_what_does_not_fit_is_named(theirs, tmp_path):
    net, path = theirs["mask"]
    ours = build_detector("mask_rcnn", "r50", num_classes=80)
    with pytest.raises(UserError, match=r"box_predictor.bbox_pred.bias is \(364,\), in Mask R-CNN R50-FPN \(324,\)"):
        load_detector(ours, path)
    said = load_detector(ours, path, keep_classifier=False)
    assert "new: roi_heads.box_predictor, roi_heads.mask_predictor" in said
    assert torch.equal(ours.roi_heads.box_head.fc6.weight, net.roi_heads.box_head.fc6.weight)
    state = net.state_dict()
    del state["rpn.head.cls_logits.bias"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(UserError, match=r"rpn\.head\.cls_logits\.bias is missing"):
        load_detector(build_detector("mask_rcnn", "r50", num_classes=90), tmp_path / "short.pth")
    for content in ([1, 2], {"model": {"a": 1}}):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(UserError, match=r"not a state dict|holds a list, not weights by name"):
            load_detector(ours, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="no such file"):
        load_detector(ours, tmp_path / "none.pth")


def test_image_net_weights_fill_the_backbone(tmp_path):
    source = resnet50(weights=None)
    torch.save(source.state_dict(), tmp_path / "r50.pth")
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "r18.pth")
    net = build_detector("mask_rcnn", "r50", num_classes=3, nonlocal_blocks=1)
    load_backbone(net, str(tmp_path / "r50.pth"))
    state = net.state_dict()
    for key, value in source.state_dict().items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(state[f"backbone.body.{key}"], value)
    with pytest.raises(UserError, match=r"not those of Mask R-CNN R50-FPN: .*; and \d+ more; give torchvision"):
        load_backbone(net, str(tmp_path / "r18.pth"))
    with pytest.raises(UserError, match="IMAGENET: neither a file nor torchvision's weights of resnet50"):
        load_backbone(net, "IMAGENET")


def on_meta(*arguments, **options):
    with torch.device("meta"):
        return build_detector(*arguments, num_classes=80, **options)


@pytest.mark.parametrize(("backbone", "last"), [("r50", 5), ("r101", 22), ("x152", 35), ("demo", 1)])
def test_the_block_is_right_before_the_last_block_of_res4(backbone, last):
    net = on_meta("mask_rcnn", backbone, nonlocal_blocks=1)
    hosts = [name for name, module in net.named_modules() if isinstance(module, NonLocalBlock)]
    assert hosts == [f"backbone.body.layer3.{last}.nonlocal_before"]
    assert len(net.backbone.body.layer3) == last + 1
    block = net.get_submodule(hosts[0])
    assert (block.channels, block.dims, block.zero_init) == (64 if backbone == "demo" else 1024, 2, "out")


def test_the_keypoint_head_has_a_block_after_every_second_of_eight_convolutions():
    net = on_meta("keypoint_rcnn", "r101", head_blocks=4)
    head = net.roi_heads.keypoint_head
    order = [type(m).__name__ for m in head.modules() if isinstance(m, nn.Conv2d | NonLocalBlock)]
    kinds = [name for name in order if name == "NonLocalBlock"]
    assert len(kinds) == 4
    assert [name for name, m in head.named_children() if hasattr(m, "nonlocal_after")] == ["3", "7", "11", "15"]
    assert [isinstance(m, nn.Conv2d) for m in head.children()] == [True, False] * 8
    seen = []
    for name, module in head.named_children():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
        if hasattr(module, "nonlocal_after"):
            module.nonlocal_after.register_forward_hook(lambda *_, name=name: seen.append(f"block {name}"))
    head(torch.empty(2, 256, 14, 14, device="meta"))
    assert seen == [n for k in range(0, 16, 4) for n in (f"{k}", f"{k + 1}", f"{k + 2}", f"block {k + 3}", f"{k + 3}")]


def test_global_context_blocks_are_before_the_residual_sum_of_every_bottleneck():
    net = on_meta("mask_rcnn", "r50", context_stages=["res3", "res4", "res5"], context_ratio=0.25)
    hosts = [name for name, module in net.named_modules() if isinstance(module, GlobalContextBlock)]
    stages = {"layer2": 4, "layer3": 6, "layer4": 3}
    assert hosts == [f"backbone.body.{s}.{k}.bn3.global_context" for s, n in stages.items() for k in range(n)]
    assert net.get_submodule(hosts[0]).channel_add_conv[0].out_channels == 128


def test_which_parts_learn_and_how_they_are_normalized():
    net = on_meta("mask_rcnn", "r50")
    learning = {
        name.split(".")[2] for name, p in net.backbone.body.named_parameters(prefix="backbone.body") if p.requires_grad
    }
    assert learning == {"layer2", "layer3", "layer4"}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    for norm, kind in (("group", nn.GroupNorm), ("sync", nn.SyncBatchNorm)):
        other = on_meta("mask_rcnn", "r50", norm=norm, trainable_stages=5)
        assert sum(isinstance(module, kind) for module in other.backbone.modules()) == 53 + 8
        assert all(parameter.requires_grad for parameter in other.parameters())
    norms = [
        m for m in on_meta("mask_rcnn", "r50", frozen_eps=0.0).modules() if type(m).__name__ == "FrozenBatchNorm2d"
    ]
    assert {norm.eps for norm in norms} == {0.0}


@pytest.mark.parametrize(("kind", "blocks"), [("mask", {"nonlocal_blocks": 1}), ("keypoint", {"head_blocks": 4})])
def test_training_moves_the_block_and_every_gradient_is_finite(kind, blocks):
    net = demo_net(kind, **blocks)
    made = [module for module in net.modules() if isinstance(module, NonLocalBlock)]
    assert len(made) == (1 if kind == "mask" else 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    data = batch([1.0, 1.0])
    start = {name: value.detach().clone() for name, value in net.named_parameters()}
    for step in (1, 2):
        optimizer.zero_grad()
        sum(losses(net, [image.float() / 255 for image in data["images"]], data["targets"]).values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        optimizer.step()
        for name, module in net.named_modules():
            if isinstance(module, NonLocalBlock):
                assert not torch.equal(module.out.weight, start[f"{name}.out.weight"])
                # what is behind a last convolution of zeros moves from the second step on
                moved = not torch.equal(module.g.weight, start[f"{name}.g.weight"])
                assert moved == (step == 2)


def test_detections_are_in_pixels_of_the_size_that_is_asked_for():
    net = every_detection(demo_net(min_size=64))  # which leaves images of 64 x 64 as they are
    with torch.no_grad():
        (plain,) = net(float_images(1))
        (same,) = detect(net, float_images(1), [(64, 64)])
        (twice,) = detect(net, float_images(1), [(128, 192)])
    assert all(torch.equal(value, same[name]) for name, value in plain.items())
    assert plain["masks"].shape[1:] == (1, 64, 64)
    assert twice["masks"].shape[1:] == (1, 128, 192)
    torch.testing.assert_close(twice["boxes"], plain["boxes"] * torch.tensor([3.0, 2.0, 3.0, 2.0]))


@pytest.mark.parametrize("kind", ["faster", "mask", "keypoint"])
def test_losses_of_resized_images_are_the_networks_own_without_its_resizing(kind, monkeypatch):
    net, data = demo_net(kind).train(), batch([1.0, 1.0])
    arguments = [image.float() / 255 for image in data["images"]], data["targets"]

    def seeded(call):
        torch.manual_seed(5)  # torchvision draws the regions that it trains on
        return call(*arguments)

    found, resizing = seeded(partial(losses, net)), seeded(net)
    monkeypatch.setattr(net.transform, "resize", lambda image, target: (image, target))
    expected = seeded(net)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(found["loss_classifier"], resizing["loss_classifier"])
    data["targets"][0]["boxes"][0, 2] = data["targets"][0]["boxes"][0, 0]
    with pytest.raises(ValueError, match="need a positive width and height"):
        seeded(partial(losses, net))


def test_boxes_are_decoded_in_full_precision_under_autocast():
    """In bfloat16 a pixel of a large image would be eight."""
    net = every_detection(demo_net(min_size=64))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (found,) = net(float_images(1))
    assert found["boxes"].dtype == found["masks"].dtype == torch.float32
    assert not torch.equal(found["boxes"], found["boxes"].bfloat16().float())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mask_rcn"}, "model name 'mask_rcn' is unknown; nearest: mask_rcnn"),
        ({"backbone": "r5"}, "backbone 'r5' is unknown; nearest: r50"),
        ({"norm": "batched"}, "norm 'batched' is unknown; nearest: batch"),
        ({"trainable_stages": 6}, "trainable_stages=6: give 0 to 5"),
        ({"head_blocks": 4}, "head_blocks=4: give 4, .* of a keypoint_rcnn's head|a keypoint_rcnn's head"),
        ({"name": "keypoint_rcnn", "head_blocks": 3}, "head_blocks=3"),
        ({"context_stages": ["res4"], "backbone": "demo"}, "this network has none"),
        ({"context_stages": ["res6"]}, "context_stages: stage 'res6' is unknown"),
        ({"nonlocal_blocks": ["res4.6"]}, "there is no block 'res4.6'"),
        ({"nonlocal_options": {"axis": "space"}}, "nonlocal_options.axis: .*nearest: axes"),
        ({"nonlocal_options": {"axes": "spce"}, "nonlocal_blocks": 1}, "nonlocal_options: .*axes"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        on_meta(**({"name": "mask_rcnn", "backbone": "r50"} | arguments))


SIZE = (800, 1088)
N, M, C, D = 50 * 68, 25 * 34, 1024, 512


FULL = [pytest.param(name, marks=pytest.mark.full) for name in ("r101", "x152")]


@pytest.mark.parametrize("backbone", ["r50", *FULL])
def test_one_block_costs_less_than_five_percent(backbone):
    plain = describe_detector(on_meta("mask_rcnn", backbone), SIZE)
    with_block = describe_detector(on_meta("mask_rcnn", backbone, nonlocal_blocks=1), SIZE)
    assert with_block.parameters - plain.parameters == 4 * C * D + 3 * D + C
    extra = with_block.gmacs - plain.gmacs
    assert extra == pytest.approx((2 * N * C * D + 2 * M * C * D + 2 * N * M * D) / 1e9, rel=1e-9)
    assert extra < 0.05 * plain.gmacs


def test_the_parameters_are_torchvisions_and_the_line_says_what_there_is():
    with torch.device("meta"):
        mask, keypoint = MaskRCNN(torchvision_backbone(), 81), KeypointRCNN(torchvision_backbone(), 2)
    ours = describe_detector(on_meta("mask_rcnn", "r50"), (64, 96))
    assert ours.parameters == sum(p.numel() for p in mask.parameters())
    line = str(describe_detector(on_meta("mask_rcnn", "r50", **BLOCKS), (64, 96)))
    assert line.startswith("Mask R-CNN R50-FPN, 1 non-local block (backbone.body.layer3.5), 13 global context blocks: ")
    assert line.endswith(" GMACs at 64x96")
    with torch.device("meta"):
        people = build_detector("keypoint_rcnn", "r50", num_classes=1)
    assert describe_detector(people, (64, 64)).parameters == sum(p.numel() for p in keypoint.parameters())
