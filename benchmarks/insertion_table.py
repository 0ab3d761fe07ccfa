"""Where `insert_nonlocal` puts a block in other people's networks, and whether these stay what they were.

One network of every family of torchvision and of many of timm (where that is installed), with random weights and small
inputs. The block goes after the repeated part that is about two thirds down the network, which the script finds.

- layout: what was recognized there.
- added: parameters of the block, in millions.
- identity: the output is the same bit for bit; removed: so it is again after `remove_nonlocal`, with the same keys.
- learns: every parameter of the block has a finite gradient, and some of them one that is not zero.
- compiles: the part with its block, as one graph of `torch.compile`; "as before": the part alone does not either.

Results are merged into the JSON, so that the table can be made in parts.

    python benchmarks/insertion_table.py [--families torchvision.resnet ...] [--page docs/insertion.md]
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlnet import insert_nonlocal, remove_nonlocal
from nlnet.errors import UserError
from nlnet.layers import NonLocalBlock
from nlnet.models.probe import probe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "insertion_table.json"
COLUMNS = ["family", "network", "after", "layout", "added", "identity", "removed", "learns", "compiles"]
DETECTION = {"weights": None, "weights_backbone": None, "num_classes": 3}
SEGMENTATION = {"weights": None, "weights_backbone": None, "num_classes": 3}

SMALL_MAXVIT = {"input_size": (64, 64), "stem_channels": 24, "partition_size": 2, "block_channels": [24, 48]}
SMALL_MAXVIT |= {"block_layers": [2, 2], "head_dim": 8, "stochastic_depth_prob": 0.0}

# By family: a network, its options, and its input.
IMAGE, CLIP = (1, 3, 64, 64), (1, 3, 8, 32, 32)
TORCHVISION: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "alexnet": ("alexnet", {}, IMAGE),
    "convnext": ("convnext_tiny", {}, IMAGE),
    "densenet": ("densenet121", {}, IMAGE),
    "efficientnet": ("efficientnet_b0", {}, IMAGE),
    "googlenet": ("googlenet", {"init_weights": False}, IMAGE),
    "inception": ("inception_v3", {"init_weights": False}, (1, 3, 80, 80)),
    "maxvit": ("MaxVit", SMALL_MAXVIT, IMAGE),
    "mnasnet": ("mnasnet0_5", {}, IMAGE),
    "mobilenetv2": ("mobilenet_v2", {}, IMAGE),
    "mobilenetv3": ("mobilenet_v3_small", {}, IMAGE),
    "regnet": ("regnet_y_400mf", {}, IMAGE),
    "resnet": ("resnet18", {}, IMAGE),
    "shufflenetv2": ("shufflenet_v2_x0_5", {}, IMAGE),
    "squeezenet": ("squeezenet1_1", {}, IMAGE),
    "swin_transformer": ("swin_t", {}, IMAGE),
    "vgg": ("vgg11", {}, IMAGE),
    "vision_transformer": ("vit_b_32", {"image_size": 64}, IMAGE),
    "video.mvit": ("MViT", {}, CLIP),
    "video.resnet": ("r3d_18", {}, CLIP),
    "video.s3d": ("s3d", {}, (1, 3, 16, 224, 224)),
    "video.swin_transformer": ("swin3d_t", {}, CLIP),
    "segmentation.deeplabv3": ("deeplabv3_mobilenet_v3_large", SEGMENTATION, IMAGE),
    "segmentation.fcn": ("fcn_resnet50", SEGMENTATION, IMAGE),
    "segmentation.lraspp": ("lraspp_mobilenet_v3_large", SEGMENTATION, IMAGE),
    "detection.faster_rcnn": ("fasterrcnn_mobilenet_v3_large_320_fpn", DETECTION, IMAGE),
    "detection.fcos": ("fcos_resnet50_fpn", DETECTION | {"min_size": 64, "max_size": 64}, IMAGE),
    "detection.keypoint_rcnn": ("keypointrcnn_resnet50_fpn", DETECTION | {"min_size": 64, "max_size": 64}, IMAGE),
    "detection.mask_rcnn": ("maskrcnn_resnet50_fpn", DETECTION | {"min_size": 64, "max_size": 64}, IMAGE),
    "detection.retinanet": ("retinanet_resnet50_fpn", DETECTION | {"min_size": 64, "max_size": 64}, IMAGE),
    "detection.ssd": ("ssd300_vgg16", DETECTION, (1, 3, 300, 300)),
    "detection.ssdlite": ("ssdlite320_mobilenet_v3_large", DETECTION, (1, 3, 320, 320)),
}
SMALL = {"img_size": 64}
TIMM: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "cait": ("cait_xxs24_224", SMALL, IMAGE),
    "convnext": ("convnextv2_atto", {}, IMAGE),
    "cspnet": ("cspresnet50", {}, IMAGE),
    "davit": ("davit_tiny", {}, IMAGE),
    "densenet": ("densenet121", {}, IMAGE),
    "edgenext": ("edgenext_xx_small", {}, IMAGE),
    "efficientnet": ("efficientnet_b0", {}, IMAGE),
    "eva": ("eva02_tiny_patch14_224", {"img_size": 56}, (1, 3, 56, 56)),
    "ghostnet": ("ghostnet_100", {}, IMAGE),
    "hiera": ("hiera_tiny_224", {"img_size": (64, 64)}, IMAGE),
    "levit": ("levit_128s", {}, (1, 3, 224, 224)),
    "maxxvit": ("coatnet_nano_rw_224", {"img_size": 64}, IMAGE),
    "metaformer": ("poolformerv2_s12", {}, IMAGE),
    "mlp_mixer": ("mixer_s32_224", SMALL, IMAGE),
    "mobilenetv3": ("mobilenetv3_small_050", {}, IMAGE),
    "mobilevit": ("mobilevit_xxs", {}, IMAGE),
    "nfnet": ("nfnet_l0", {}, IMAGE),
    "pvt_v2": ("pvt_v2_b0", {}, IMAGE),
    "regnet": ("regnetx_002", {}, IMAGE),
    "repvit": ("repvit_m0_9", {}, IMAGE),
    "resnet": ("resnet18", {}, IMAGE),
    "swin_transformer": ("swin_tiny_patch4_window7_224", SMALL, IMAGE),
    "vision_transformer": ("vit_tiny_patch16_224", SMALL, IMAGE),
    "xcit": ("xcit_nano_12_p16_224", SMALL, IMAGE),
}


def families() -> list[str]:
    return [*(f"torchvision.{name}" for name in TORCHVISION), *(f"timm.{name}" for name in TIMM)]


def made(family: str) -> tuple[str, nn.Module, Any]:
    """The name of the family's network, the network and an input for it."""
    library, _, key = family.partition(".")
    torch.manual_seed(0)
    if library == "timm":
        import timm

        name, options, shape = TIMM[key]
        return name, awake(timm.create_model(name, pretrained=False, **options).eval()), torch.randn(shape)
    import torchvision

    name, options, shape = TORCHVISION[key]
    if name == "MViT":
        return name, awake(small_mvit().eval()), torch.randn(shape)
    room = {"detection": torchvision.models.detection, "segmentation": torchvision.models.segmentation}
    room |= {"video": torchvision.models.video, "maxvit": torchvision.models.maxvit}
    builder: Callable[..., nn.Module] = getattr(room.get(key.partition(".")[0], torchvision.models), name)
    images = torch.rand(shape)
    return name, awake(builder(**options).eval()), [images[0]] if key.startswith("detection.") else images


def small_mvit() -> nn.Module:
    """MViT takes one size only, and the sizes of its builders are large."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, c, 2 * c, (3, 3, 3), (1, 2, 2), (1, s, s), (1, 2, 2)) for c, s in ((8, 1), (16, 2), (32, 1))
    ]
    return MViT((32, 32), 8, blocks, residual_pool=False, residual_with_cls_embed=True, rel_pos_embed=False,
                proj_after_attn=False)  # fmt: skip


def awake(model: nn.Module) -> nn.Module:
    """No layer is zero, as some start: behind it nothing would be seen."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def place(model: nn.Module, inputs: Any) -> str:
    """The part two thirds down the network, in the order of its names, that gives one tensor with channels.

    Parts are what is repeated in a container, or else the network's children.
    """
    parts = {
        f"{name}.{child}".lstrip("."): part
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList) and len({type(c) for c in module}) < max(len(module), 2)
        for child, part in module.named_children()
        if not isinstance(part, nn.ModuleList | nn.ModuleDict)
    }
    parts = parts or dict(model.named_children())
    seen = probe(model, inputs, parts, dict.fromkeys(parts, False))
    maps = [name for name, values in seen.items() if values and all(v.is_map and min(v.shape[1:]) > 1 for v in values)]
    if hasattr(model, "backbone"):
        maps = [name for name in maps if name.startswith("backbone.")]
    outer = [name for name in maps if not any(name.startswith(f"{other}.") for other in maps)]
    if not outer:
        raise UserError("no place was found")
    return outer[len(outer) * 2 // 3]


def row(family: str) -> dict[str, Any]:
    name, model, inputs = made(family)
    result: dict[str, Any] = {"family": family, "network": name, "after": place(model, inputs)}
    return result | measured(model, inputs, result["after"])


def measured(model: nn.Module, inputs: Any, where: str, *, compiled: bool = True) -> dict[str, Any]:
    """What the table says about a block after `where`, other than its names."""
    keys = list(model.state_dict())
    before = called(model, inputs)
    insert_nonlocal(model, {where: "after"}, example_inputs=inputs)
    (block,) = (m for m in model.modules() if isinstance(m, NonLocalBlock))
    result: dict[str, Any] = {"layout": layout_of(model), "dims": block.dims, "channels": block.channels}
    result["added"] = round(sum(p.numel() for p in block.parameters()) / 1e6, 3)
    result["identity"] = equal(called(model, inputs), before)
    nn.init.ones_(block.norm.get_parameter("weight"))
    result["learns"] = learns(model, inputs, block)
    if compiled:
        result["compiles"] = compiles(model, inputs, where)
    remove_nonlocal(model)
    result["removed"] = equal(called(model, inputs), before) and list(model.state_dict()) == keys
    if compiled and not result["compiles"]:
        result["compiles"] = False if compiles(model, inputs, where) else "as before"
    return result


def layout_of(model: nn.Module) -> str:
    names = {hook.__name__ for module in model.modules() for hook in module._forward_hooks.values()}
    return "last" if any(name.endswith("_last") for name in names) else "first"


def called(model: nn.Module, inputs: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(inputs)


def learns(model: nn.Module, inputs: Any, block: nn.Module) -> bool:
    model.zero_grad()
    # Of what a detector finds in noise there may be nothing.
    results = model.backbone(inputs[0][None]) if isinstance(inputs, list) else model(inputs)
    sum(t.float().square().sum() for t in leaves(results)).backward()
    grads = [p.grad for p in block.parameters()]
    return all(g is not None and bool(g.isfinite().all()) for g in grads) and any(
        bool(g.any()) for g in grads if g is not None
    )


def compiles(model: nn.Module, inputs: Any, where: str) -> bool:
    """The part at `where`, on what it gets in the network; most of a network says nothing about the block."""
    part, calls = model.get_submodule(where), list[Any]()
    handle = part.register_forward_pre_hook(lambda module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    called(model, inputs)
    handle.remove()
    args, kwargs = calls[0]
    torch._dynamo.reset()
    with torch.no_grad():
        try:
            results = torch.compile(part, fullgraph=True, backend="eager")(*args, **kwargs)
        except Exception:
            return False
        expected = part(*args, **kwargs)
    torch.testing.assert_close(list(leaves(results)), list(leaves(expected)), rtol=1e-4, atol=1e-4)
    return True


def leaves(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from leaves(part)


def equal(a: Any, b: Any) -> bool:
    ours, theirs = list(leaves(a)), list(leaves(b))
    return len(ours) == len(theirs) and all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def cell(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, str(value)) if not isinstance(value, float) else f"{value:.2f} M"


def markdown(rows: Iterable[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    for row_ in rows:
        shown = row_ | {"layout": f"{row_['layout']}, {row_['dims']}-D", "after": f"`{row_['after']}`"}
        lines.append(f"| {' | '.join(cell(shown[column]) for column in COLUMNS)} |")
    return "\n".join(lines)


def page(text: str, rows: Iterable[dict[str, Any]]) -> str:
    """The page with its table renewed; what stands before the table stays."""
    return text[: text.index("| family |")] + markdown(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=families(), choices=families())
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "insertion.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    rows = {row_["family"]: row_ for row_ in stored}
    ordered = stored
    for family in arguments.families:
        try:
            rows[family] = row(family)
        except Exception as error:
            print(f"{family}: {type(error).__name__}: {error}", flush=True)
            continue
        print(markdown([rows[family]]).splitlines()[-1], flush=True)
        ordered = [rows[name] for name in families() if name in rows]
        RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": ordered}, indent=2) + "\n")
    if arguments.page.exists():
        text = arguments.page.read_text(encoding="utf-8")
        arguments.page.write_text(page(text, ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
