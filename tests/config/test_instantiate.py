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
