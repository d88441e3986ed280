"""Networks with random weights that affect the results."""

import torch
from torch import nn

from models.checkpoints import make_recipe, network_of
from utils.schemes import SECOND
from utils.state_files import save_checkpoint


def make_teachers(outdir, count: int = 2) -> list:
    """Writes untrained networks as checkpoints in OUTDIR/models."""
    paths = []
    for seed in range(count):
        torch.manual_seed(seed)
        recipe = make_recipe(SECOND, model="fcn", backbone="test_resnet", lightweight=True)
        network = network_of(recipe)
        # an untrained network predicts one class everywhere; this makes it predict several
        network.semantic_head.head[-1].weight.data.mul_(500)
        paths.append(outdir / "models" / f"fcn_test_resnet_{seed}.00.pth")
        save_checkpoint(paths[-1], network.state_dict(), recipe)
    return paths


def random_norms(network: nn.Module) -> nn.Module:
    """Sets random statistics and weights of batch norms, so that they affect the results."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.running_mean.shape
            module.running_mean.copy_(0.1 * torch.randn(size, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(size, generator=generator))
            module.weight.data.copy_(0.3 + 0.2 * torch.rand(size, generator=generator))
    return network.eval()
