"""Load a trained torch.nn.BatchNorm2d into fastbn, and compare both layers. Requires torch.

fastbn uses the names of PyTorch, so it loads ``state_dict()`` directly. Inference and training agree within the
rounding of float32.
"""

import numpy as np
import torch

import fastbn

CHANNELS = 64


def trained_layer(rng):
    """Return a torch layer with random parameters and the running averages of ten batches."""
    layer = torch.nn.BatchNorm2d(CHANNELS)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, CHANNELS)))
        layer.bias.copy_(torch.from_numpy(rng.normal(0, 0.5, CHANNELS)))
        for _ in range(10):
            layer(torch.from_numpy(batch(rng)))
    return layer


def batch(rng):
    """Return images of shape (16, 64, 28, 28), float32."""
    return rng.normal(3, 2, (16, CHANNELS, 28, 28)).astype(np.float32)


def report(name, ours, theirs):
    """Print the largest difference between a fastbn array and a torch tensor."""
    theirs = theirs.detach().numpy()
    print(f"  {name:<22} {abs(ours - theirs).max():.1e}   largest value {abs(theirs).max():.3g}")


def main():
    """Load the layer, and compare inference and a training step with its gradients."""
    rng = np.random.default_rng(0)
    layer = trained_layer(rng)
    bn = fastbn.BatchNorm(CHANNELS, eps=layer.eps, momentum=layer.momentum)
    bn.load_state_dict(layer.state_dict())
    print(f"{bn}\nlargest difference from torch {torch.__version__}:")

    x = batch(rng)
    dy = rng.standard_normal(x.shape, dtype=np.float32)
    report("inference", bn.eval()(x), layer.eval()(torch.from_numpy(x)))
    report("inference, frozen", bn.frozen()(x), layer(torch.from_numpy(x)))

    tensor = torch.from_numpy(x).requires_grad_()
    output = layer.train()(tensor)
    output.backward(torch.from_numpy(dy))
    report("training", bn.train()(x), output)
    report("gradient of x", bn.backward(dy), tensor.grad)
    report("gradient of gamma", bn.grad_gamma, layer.weight.grad)
    report("gradient of beta", bn.grad_beta, layer.bias.grad)
    report("running mean", bn.running_mean, layer.running_mean)
    report("running variance", bn.running_var, layer.running_var)


if __name__ == "__main__":
    main()
