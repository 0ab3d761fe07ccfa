"""Networks as training leaves them."""

import torch
from torch import Tensor, nn


def scrambled(model: nn.Module) -> nn.Module:
    """`model` with random statistics, scales and shifts in its batch norms, in place."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
    return model


def randomise(net: nn.Module, seed: int = 0, *, embeddings: float = 0.2) -> nn.Module:
    """Weights, statistics and scales as after training, so that every part shows in the logits; evaluation mode.

    The last convolution of a residual branch (conv3, in pytorchvideo conv_c) and a non-local block's embeddings are
    smaller, or the sum of many branches would grow until the smallest rounding shows. Pass still smaller `embeddings`
    for the dot product, which is of third degree.
    """
    gains = {"conv3": 0.3, "conv_c": 0.3, "theta": embeddings, "phi": embeddings}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in net.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.uniform_(0.5, 1.1, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 1.1, generator=generator)
            elif isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
                gain = next((value for part, value in gains.items() if part in name), 1)
                module.weight.normal_(0, gain * (2 / module.weight[0].numel()) ** 0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
    return net.eval()


def check_under_autocast(layer: nn.Module, x: Tensor) -> None:
    """In bfloat16 under autocast a layer gives what it gives in float32, but for a tenth of its spread."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y.float(), layer(x), rtol=0.1, atol=0.1 * layer(x).std().item())
