"""Networks that start from trained weights: ours of another shape, and 2-D ones."""

import copy
import os
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from conftest import ROOT
from helpers.networks import scrambled
from nlnet import build_model
from nlnet.checkpoints.inflate import inflate_weights
from nlnet.checkpoints.weights import load_weights
from nlnet.data.batches.clip_transforms import MEAN, STD
from nlnet.errors import UserError
from nlnet.models import ResNet3d
from nlnet.models.detection.build import build_detector

CLIP = torch.randn(2, 3, 8, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def demo(**options: object) -> ResNet3d:
    options = {"dropout": 0.0, "num_classes": 4} | options
    return build_model("c2d_demo", **options).double().eval()  # type: ignore[arg-type]


def saved(model: nn.Module, path: Path, prefix: str = "net.") -> Path:
    state = {prefix + name: value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 3} if prefix else state, path)
    return path


@pytest.mark.parametrize("prefix", ["net.", ""])
def test_a_checkpoint_gives_all_but_the_classifier(tmp_path: Path, prefix: str) -> None:
    trained, new = scrambled(demo()), demo(num_classes=7)
    fresh = copy.deepcopy(new.fc.weight)
    said = load_weights(new, saved(trained, tmp_path / "a.ckpt", prefix))
    assert said == f"weights from {tmp_path / 'a.ckpt'}; new: the classifier"
    assert torch.equal(new.features(CLIP), trained.features(CLIP))
    assert torch.equal(new.fc.weight, fresh)
    same = demo()
    load_weights(same, tmp_path / "a.ckpt", keep_classifier=True)
    assert torch.equal(same(CLIP), trained(CLIP))


def test_a_runs_folder_gives_its_best_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    best, last = (scrambled(demo()) for _ in range(2))
    for net, name in ((best, "best"), (last, "last")):
        saved(net, tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
    new = demo()
    load_weights(new, tmp_path / "run", keep_classifier=True)
    assert all(torch.equal(new.state_dict()[key], value) for key, value in best.state_dict().items())
    with pytest.raises(UserError, match=r"no checkpoints/best.ckpt or last.ckpt in this folder"):
        load_weights(new, tmp_path)


def test_new_blocks_keep_the_baselines_features(tmp_path: Path) -> None:
    trained, new = scrambled(demo()), demo(nonlocal_blocks=2, norm="frozen")
    said = load_weights(new, saved(trained, tmp_path / "a.ckpt"))
    assert said.endswith("new: the classifier, the block after res3.0, the block after res3.1")
    assert torch.equal(new.features(CLIP), trained.features(CLIP))


@pytest.mark.parametrize("norm", ["none", "affine"])
@pytest.mark.parametrize("out_bias", [True, False])
def test_a_blocks_batch_norm_goes_into_what_the_new_block_has(tmp_path: Path, norm: str, out_bias: bool) -> None:
    trained = scrambled(demo(nonlocal_blocks=2, nonlocal_options={"out_bias": out_bias}))
    options = {"norm": norm} | ({"out_bias": out_bias} if norm == "affine" else {})
    new = demo(nonlocal_blocks=2, norm="frozen", nonlocal_options=options)
    load_weights(new, saved(trained, tmp_path / "a.ckpt"))
    torch.testing.assert_close(new.features(CLIP), trained.features(CLIP), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(trained.features(CLIP), demo().features(CLIP))


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch executed",)


def test_what_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(demo(nonlocal_blocks=1), tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"a\.ckpt: .*res3\.0_nonlocal\.\S+ is not in C2D-demo; .*and \d+ more"):
        load_weights(demo(), path)
    with pytest.raises(UserError, match=r"res2\.0\.conv1\.weight is \(16, 16, 1, 1, 1\), in I3D-demo \(16, 16, 3"):
        load_weights(build_model("i3d_demo"), saved(demo(), tmp_path / "b.ckpt"))
    with pytest.raises(UserError, match="is missing"):
        load_weights(demo(), saved(demo().res2, tmp_path / "c.ckpt"))
    with pytest.raises(UserError, match=r"none\.ckpt: there is no such file"):
        load_weights(demo(), tmp_path / "none.ckpt")
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps({"state_dict": Payload()}, protocol=2))
    torch.save({"state_dict": Payload()}, tmp_path / "evil2.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    for name in ("evil.ckpt", "evil2.ckpt", "list.ckpt"):
        with pytest.raises(UserError, match=r"nlnet-convert"):
            load_weights(demo(), name)
    assert not (tmp_path / "executed").exists()


# ---- 2-D weights


@pytest.fixture(scope="module")
def images() -> nn.Module:
    torch.manual_seed(0)
    model = resnet50(weights=None, num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def file(images: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "resnet50.pth"
    torch.save(images.state_dict(), path)
    return path


def test_a_still_clip_gives_the_2d_networks_logits(images: nn.Module, file: Path) -> None:
    model = build_model("c2d_r50", num_classes=5, geometry="sparse", nonlocal_blocks=5).eval()
    assert inflate_weights(model, file) == f"weights inflated from {file}"
    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(picture[:, :, None].expand(-1, -1, 2, -1, -1)), images(picture))


def test_kernels_over_time(images: nn.Module, file: Path) -> None:
    for inflation in ("all", "center"):
        model = build_model("i3d_r50", num_classes=3)
        fresh = copy.deepcopy(model.fc.weight)
        assert inflate_weights(model, file, inflation=inflation).endswith("new: the classifier")
        assert torch.equal(model.fc.weight, fresh)
        for kernel, flat in ((model.stem.conv, images.conv1), (model.res3[0].conv1, images.layer2[0].conv1)):
            frames: Tensor = kernel.weight.unbind(2)
            if inflation == "all":
                assert all(torch.equal(frame, flat.weight / len(frames)) for frame in frames)
            else:
                assert torch.equal(frames[len(frames) // 2], flat.weight)
                assert sum(bool(frame.any()) for frame in frames) == 1
        assert torch.equal(model.res5[0].downsample[1].running_var, images.layer4[0].downsample[1].running_var)


def test_files_of_other_programs_around_the_same_names(images: nn.Module, tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in images.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "a.pth")
    model = build_model("c2d_r50", num_classes=5)
    inflate_weights(model, tmp_path / "a.pth")
    assert torch.equal(model.fc.weight, images.fc.weight)


def test_other_networks_and_names_are_refused(file: Path, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = build_model("c2d_r101")
    with pytest.raises(UserError, match=r"res4\.6\.conv1\.weight is missing"):
        inflate_weights(model, file)
    model = build_model("c2d_demo")
    with pytest.raises(UserError, match="torchvision has no 2-D network of C2D-demo's shape"):
        inflate_weights(model, "IMAGENET1K_V1")
    with torch.device("meta"):
        model = build_model("c2d_r50")
    with pytest.raises(UserError, match="neither a file nor torchvision's weights of resnet50; nearest: IMAGENET1K_V"):
        inflate_weights(model, "IMAGENET1K_V3")
    with pytest.raises(UserError, match=r"there is no such file of 2-D weights"):
        inflate_weights(model, tmp_path / "none.pth")
    with pytest.raises(UserError, match="inflation='centre' is unknown; nearest: center"):
        inflate_weights(model, file, inflation="centre")  # type: ignore[arg-type]


def test_a_name_downloads_torchvisions_weights_without_unpickling(
    images: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(url: str, **options: object) -> dict[str, Tensor]:
        asked.append((url.rsplit("/", 1)[-1], options["weights_only"], options["check_hash"]))
        return images.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    model = build_model("c2d_r50", num_classes=5)
    assert inflate_weights(model, "IMAGENET1K_V1") == "weights inflated from IMAGENET1K_V1"
    assert torch.equal(model.fc.weight, images.fc.weight)
    assert asked == [("resnet50-0676ba61.pth", True, True)]

    def offline(url: str, **options: object) -> None:
        raise URLError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"could not be fetched.*no route.*give its path"):
        inflate_weights(model, "IMAGENET1K_V1")


def test_what_is_said_of_pixels_is_so() -> None:
    """docs/checkpoints.md against torchvision's own settings and those of clips and of detectors here."""
    said = (ROOT / "docs" / "checkpoints.md").read_text()
    transform = ResNet50_Weights.IMAGENET1K_V1.transforms()
    means, stds = (", ".join(f"{value:.3f}" for value in values) for values in (transform.mean, transform.std))
    assert f"(x - {means}) / ({stds})" in said
    assert f"(x - {MEAN}) / {STD}" in said
    black = [f"{abs(MEAN / STD - m / s):.2f}" for m, s in zip(transform.mean, transform.std, strict=True)]
    assert f"a black pixel differs by {black[0]}, {black[1]} and {black[2]}" in said
    detector = build_detector("faster_rcnn", backbone="demo", num_classes=1, norm="batch", trainable_stages=5)
    assert (detector.transform.image_mean, detector.transform.image_std) == (transform.mean, transform.std)
