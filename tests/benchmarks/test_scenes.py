import pytest

import test
from benchmarks import scenes


@pytest.mark.parametrize("task", scenes.LAYOUTS)
def test_generated_scenes_of_every_task_are_predicted(tmp_path, task):
    args = scenes.parse_args(["--task", task, "--test-options", "--tta none --device cpu"])
    checkpoint = scenes.save_network(tmp_path / "network.pth", args)
    scenes.make_scenes(task, tmp_path / "data", side=64, count=2)
    test.main(scenes.test_words(args, tmp_path / "data", checkpoint))
    found = [path for path in (tmp_path / "data/out/masks").rglob("*") if path.is_file()]
    assert len(found) == 2 * len(scenes.FOLDERS[task])
