"""What happens without shards: the demo by hand, an error wherever its result could be mistaken for a real one."""

import pytest
from omegaconf import OmegaConf

from nlnet.config.compose import compose
from nlnet.config.demo import runs_demo
from nlnet.config.resolve import load, resolve, with_demo_size
from nlnet.errors import UserError

NL = ["experiment=charades_nl"]


def test_by_hand_the_demo_stands_in_with_its_size():
    cfg = resolve(compose(NL), NL)
    assert cfg.demo
    assert (cfg.size_name, cfg.model.name, cfg.model.nonlocal_blocks) == ("demo", "c2d_demo", 5)
    assert cfg.experiment_name == "charades_nl"


def test_the_command_line_and_the_debug_group_win_over_the_demo():
    overrides = [*NL, "model.nonlocal_blocks=0", "debug=fdr"]
    cfg = resolve(compose(overrides), overrides)
    assert (cfg.size_name, cfg.model.nonlocal_blocks, cfg.trainer.fast_dev_run) == ("demo", 0, True)
    assert cfg.data.num_workers == 0


def test_an_empty_variable_is_no_shards(monkeypatch):
    monkeypatch.setenv("CHARADES_SHARDS", "")
    assert runs_demo(compose(NL), NL)
    assert resolve(compose(NL), NL).demo  # as `make demo` does
    for variable, experiment in (("KINETICS_SHARDS", "kinetics_c2d_nl"), ("COCO_SHARDS", "coco_mask_nl")):
        monkeypatch.setenv(variable, "")
        words = [f"experiment={experiment}"]
        assert resolve(compose(words), words).data.shards
    monkeypatch.setenv("CHARADES_SHARDS", "/data/charades")
    assert not runs_demo(compose(NL), NL)


@pytest.mark.parametrize(
    ("env", "more", "reason"),
    [
        ({"WORLD_SIZE": "2"}, [], "WORLD_SIZE"),
        ({"SLURM_JOB_ID": "17"}, [], "Slurm"),
        ({"WANDB_SWEEP_ID": "abc"}, [], "sweep"),
        ({}, ["ckpt_path=last"], "ckpt_path=last"),
        ({}, ["trainer=ddp_sim"], "several processes"),
    ],
)
def test_where_a_demo_would_mislead_missing_shards_are_an_error(env, more, reason):
    overrides = [*NL, *more]
    with pytest.raises(UserError, match="CHARADES_SHARDS") as raised:
        runs_demo(compose(overrides), overrides, env)
    assert reason in str(raised.value)
    assert "size=demo" in str(raised.value)
    overrides.append("size=demo")
    assert runs_demo(compose(overrides), overrides, env)


@pytest.mark.parametrize(
    ("words", "size", "key", "value"),
    [
        (["experiment=cityscapes_nl", "size=demo", "model.channels=16"], "demo_segmentation", "model.channels", 16),
        (["experiment=charades_nl_strg", "size=demo", "model.graph=none"], "demo_regions", "model.graph", "none"),
        (["experiment=denoise_nlrn", "size=demo", "model.steps=2"], "demo_denoise", "model.steps", 2),
        (["experiment=coco_mask_nl", "size=demo", "model.backbone=demo"], "demo_coco", "model.backbone", "demo"),
        (["experiment=charades_nl", "size=demo", "model.nonlocal_blocks=0"], "demo", "model.nonlocal_blocks", 0),
    ],
)
def test_keys_of_an_experiments_own_network_can_be_set_at_its_demo_size(words, size, key, value):
    sized = with_demo_size(words)
    assert sized == [words[0], f"size={size}", words[2]]
    cfg = load(words)
    assert (cfg.demo, cfg.size_name, OmegaConf.select(cfg, key)) == (True, "demo", value)


def test_the_demo_size_is_found_for_all_points_of_a_sweep_over_values():
    words = ["experiment=cityscapes_ann", "size=demo", "model.channels=16,32"]
    assert with_demo_size(words)[1] == "size=demo_segmentation"
    several = ["experiment=cityscapes_ccnet,cityscapes_nl", "size=demo", "seed=1", "model.channels=16"]
    assert with_demo_size(several) == several  # each point has its own
