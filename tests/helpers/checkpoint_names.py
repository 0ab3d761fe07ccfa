"""The names that other programs give to the layers of `helpers.video_weights`."""

from helpers.video_weights import Layer

_TORCH_NORM = {
    "norm.weight": "weight",
    "norm.bias": "bias",
    "norm.mean": "running_mean",
    "norm.var": "running_var",
}
_CAFFE2_NORM = {"norm.weight": "s", "norm.bias": "b", "norm.mean": "rm", "norm.var": "riv"}
_BRANCH = {"conv1": "a", "conv2": "b", "conv3": "c"}


def caffe2(layer: Layer, part: str) -> str:
    kind, stage, i = layer
    if kind == "fc":
        return f"pred_{part[0]}"
    if kind in ("theta", "phi", "g", "out"):
        return f"nonlocal_conv{stage}_{i}_{kind}_{part[0]}"
    if kind == "block_norm":
        return f"nonlocal_conv{stage}_{i}_bn_{_CAFFE2_NORM[part]}"
    if kind == "stem":
        return "conv1_w" if part == "weight" else f"res_conv1_bn_{_CAFFE2_NORM[part]}"
    branch = "branch1" if kind == "down" else f"branch2{_BRANCH[kind]}"
    return f"res{stage}_{i}_{branch}" + ("_w" if part == "weight" else f"_bn_{_CAFFE2_NORM[part]}")


def slowfast(layer: Layer, part: str) -> str:
    kind, stage, i = layer
    if kind == "fc":
        return f"head.projection.{part}"
    if kind in ("theta", "phi", "g", "out"):
        return f"s{stage}.pathway0_nonlocal{i}.conv_{kind}.{part}"
    if kind == "block_norm":
        return f"s{stage}.pathway0_nonlocal{i}.bn.{_TORCH_NORM[part]}"
    if kind == "stem":
        return "s1.pathway0_stem." + ("conv.weight" if part == "weight" else f"bn.{_TORCH_NORM[part]}")
    branch = "branch1" if kind == "down" else f"branch2.{_BRANCH[kind]}"
    return f"s{stage}.pathway0_res{i}.{branch}" + (".weight" if part == "weight" else f"_bn.{_TORCH_NORM[part]}")


def gluoncv(layer: Layer, part: str) -> str:
    kind, stage, i = layer
    if kind == "fc":
        return f"fc.{part}"
    if kind == "stem":
        return "first_stage." + ("0.weight" if part == "weight" else f"1.{_TORCH_NORM[part]}")
    start = f"res_layers.{stage - 2}.{i}."
    if kind in ("theta", "phi", "g", "out"):
        return f"{start}nonlocal_block.{'W' if kind == 'out' else kind}.{part}"
    if kind == "block_norm":
        return f"{start}nonlocal_block.bn.{_TORCH_NORM[part]}"
    if kind == "down":
        return f"{start}downsample." + ("0.weight" if part == "weight" else f"1.{_TORCH_NORM[part]}")
    return start + (f"{kind}.weight" if part == "weight" else f"bn{kind[-1]}.{_TORCH_NORM[part]}")
