import pytest
from omegaconf import OmegaConf

from nlnet.config.instantiate import instantiate
from nlnet.errors import UserError


@pytest.mark.parametrize("target", ["os.getcwd", "builtins.dict", "torch.load", "torchish.thing", "nlnetx.y"])
def test_only_listed_packages_are_called(target):
    cfg = OmegaConf.create({"outer": {"items": [{"_target_": target}]}})
    with pytest.raises(UserError, match=r"outer\.items\.0\._target_=") as raised:
        instantiate(cfg)
    assert f"extras.allow_targets=[{target.split('.')[0]}]" in str(raised.value)


def test_a_listed_package_is_called():
    assert instantiate(OmegaConf.create({"_target_": "collections.Counter", "a": 2}), ["collections"])["a"] == 2
    assert instantiate(OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}))


def test_a_wrong_argument_is_one_line():
    with pytest.raises(UserError, match="wings") as raised:
        instantiate(OmegaConf.create({"_target_": "torch.nn.Linear", "wings": 2}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "target",
    [
        "torchvision.datasets.utils.torch.load",  # reached through a module of an allowed package, defined elsewhere
        "torchvision.datasets.utils.torch.hub.load",
        "nlnet.checkpoints.convert.torch.load",
        "pytorch_lightning.trainer.trainer.os.system",
        "nlnet.runs.record._git",  # defined there, and no function for configurations
        "nlnet.runs.record.subprocess.run",
        "nlnet.data.shards.cache.run_pipe",
        "pytorch_lightning.Trainer.fit",
        "torch.nn.init.zeros_",
        "torch.nn",
        "torch.nn.nothing",
        "torch.nn..Linear",
    ],
)
def test_a_target_is_a_class_or_a_function_meant_for_it_in_its_own_package(target):
    with pytest.raises(UserError, match=r"^loss\._target_"):
        instantiate(OmegaConf.create({"loss": {"_target_": target, "_partial_": True}}))


@pytest.mark.parametrize(
    "target",
    [
        "torchvision.models.video.r3d_18",
        "torch.nn.functional.mse_loss",
        "nlnet.build_model",
        "nlnet.models.build_model",
    ],
)
def test_functions_that_make_networks_and_losses_are_called(target):
    made = instantiate(OmegaConf.create({"_target_": target, "_partial_": True}))
    assert callable(made)


def test_functions_of_the_users_own_package_are_called():
    assert instantiate(OmegaConf.create({"_target_": "textwrap.dedent", "text": "  a"}), ["textwrap"]) == "a"
    with pytest.raises(UserError, match=r"is defined in re"):
        instantiate(OmegaConf.create({"_target_": "textwrap.re.compile", "pattern": "a"}), ["textwrap"])
