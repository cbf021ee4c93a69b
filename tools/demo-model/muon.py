"""Muon: momentum, orthogonalized by a Newton-Schulz iteration, for stacks of matrices."""

from collections import defaultdict

import torch


def orthogonalize(stack):
    """The nearest (roughly) orthogonal matrices of a stack [n, rows, columns], rows <= columns."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = stack.bfloat16() if stack.is_cuda else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon:
    """Updates matrices of one shape together; stacks of experts count as many matrices."""

    def __init__(self, parameters, rate, momentum=0.95, decay=0.05):
        self.rate, self.momentum, self.decay = rate, momentum, decay
        groups = defaultdict(list)
        for parameter in parameters:
            groups[parameter.shape[-2:]].append(parameter)
        self.groups = list(groups.values())
        self.buffers = [[torch.zeros_like(p) for p in group] for group in self.groups]
        self.orthogonalize = (
            torch.compile(orthogonalize, dynamic=False) if parameters[0].is_cuda else orthogonalize
        )

    @torch.no_grad()
    def step(self, factor):
        """One update with the learning rate times `factor`."""
        rate = self.rate * factor
        for group, buffers in zip(self.groups, self.buffers):
            gradients = [p.grad for p in group]
            torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
            updates = torch._foreach_lerp(gradients, buffers, self.momentum)
            rows, columns = group[0].shape[-2:]
            stack = torch.cat([u.reshape(-1, rows, columns) for u in updates])
            flip = rows > columns
            stack = self.orthogonalize(stack.mT.contiguous() if flip else stack).float()
            stack = (stack.mT if flip else stack) * max(1.0, rows / columns) ** 0.5
            sizes = [p.numel() // (rows * columns) for p in group]
            updates = [u.reshape(p.shape) for u, p in zip(stack.split(sizes), group)]
            torch._foreach_mul_(group, 1 - rate * self.decay)
            torch._foreach_add_(group, updates, alpha=-rate)
