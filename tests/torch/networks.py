"""Networks as they are written for PyTorch, small: one for each family of blocks."""

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    def __init__(self, c, k, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        self.downsample = None
        if stride != 1 or c != k:
            self.downsample = nn.Sequential(
                nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8))
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(Residual(8, 8, 1), Residual(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.stem(x), inplace=True))
        x = self.avgpool(self.blocks(x))
        return self.fc(torch.flatten(x, 1))


class SqueezeExcite(nn.Module):
    def __init__(self, c, act, gate):
        super().__init__()
        self.pool, self.fc1 = nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c // 4, 1)
        self.fc2, self.act, self.gate = nn.Conv2d(c // 4, c, 1), act, gate

    def forward(self, x):
        return self.gate(self.fc2(self.act(self.fc1(self.pool(x))))) * x


class Inverted(nn.Module):
    def __init__(self, c, act, gate, kernel=3):
        super().__init__()
        wide = 4 * c
        self.block = nn.Sequential(
            *(nn.Conv2d(c, wide, 1, bias=False), nn.BatchNorm2d(wide, eps=1e-3), act()),
            nn.Conv2d(wide, wide, kernel, 1, kernel // 2, groups=wide, bias=False),
            *(nn.BatchNorm2d(wide, momentum=0.01), act()),
            SqueezeExcite(wide, act(), gate()),
            *(nn.Conv2d(wide, c, 1, bias=False), nn.BatchNorm2d(c)),
        )

    def forward(self, x):
        return x + self.block(x)


def mobile(act, gate, kernel=3):
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), act()),
        *(Inverted(8, act, gate, kernel), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(8, 16), act(), nn.Linear(16, 10)),
    )


def mobilenet_v2():
    return mobile(nn.ReLU6, nn.Sigmoid)


def mobilenet_v3():
    return mobile(lambda: nn.Hardswish(inplace=True), nn.Hardsigmoid, 5)


def efficientnet():
    return mobile(lambda: nn.SiLU(inplace=True), nn.Sigmoid)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dwconv = nn.Conv2d(c, c, 7, padding=3, groups=c)
        self.norm = nn.LayerNorm(c, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(0.5 * torch.ones(c))

    def forward(self, x):
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, 4), LayerNorm2d(8))
        self.block = ConvNeXtBlock(8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x):
        x = self.block(self.stem(x))
        return self.head(self.norm(x.mean([-2, -1])))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()

        def double(c, k):
            return nn.Sequential(
                *(nn.Conv2d(c, k, 3, padding=1), nn.BatchNorm2d(k), nn.ReLU(inplace=True)),
                *(nn.Conv2d(k, k, 3, padding=1), nn.GroupNorm(2, k), nn.LeakyReLU(0.1)),
            )

        self.down1, self.down2, self.down3 = double(3, 4), double(4, 8), double(8, 8)
        self.up1 = nn.ConvTranspose2d(8, 8, 2, stride=2)
        self.merge1, self.merge2 = double(16, 8), double(12, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.down3(F.max_pool2d(b, 2))
        y = self.merge1(torch.cat([self.up1(c), b], 1))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
        return self.out(self.merge2(torch.cat([y, a], 1)))


class Yolo(nn.Module):
    def __init__(self):
        super().__init__()

        def conv(c, k, size=1, stride=1):
            return nn.Sequential(
                nn.Conv2d(c, k, size, stride, size // 2, bias=False),
                *(nn.BatchNorm2d(k, eps=1e-3, momentum=0.03), nn.SiLU(inplace=True)),
            )

        self.stem, self.cv1, self.m = conv(3, 8, 3, 2), conv(8, 8), conv(4, 4, 3)
        self.cv2, self.down = conv(12, 8), conv(8, 8, 3, 2)
        self.spp1, self.pool, self.spp2 = conv(8, 4), nn.MaxPool2d(5, 1, 2), conv(16, 8)
        self.up, self.head = nn.Upsample(scale_factor=2), conv(16, 8)
        self.detect = nn.ModuleList([nn.Conv2d(8, 7, 1), nn.Conv2d(8, 7, 1)])

    def forward(self, x):
        x = self.stem(x)
        a, b = self.cv1(x).split((4, 4), 1)
        x = self.cv2(torch.cat((a, b, b + self.m(b)), 1))
        y = self.spp1(self.down(x))
        p = self.pool(y)
        q = self.pool(p)
        y = self.spp2(torch.cat((y, p, q, self.pool(q)), 1))
        z = self.head(torch.cat((self.up(y), x), 1))
        found = [layer(v) for layer, v in zip(self.detect, (y, z), strict=True)]
        flat = torch.cat([v.view(v.shape[0], 7, -1) for v in found], 2)
        box, scores = flat.split((4, 3), 1)
        return torch.cat((box.tanh() * 2, scores.sigmoid()), 1).permute(0, 2, 1).contiguous()


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.b1, self.b2 = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.b3, self.b4 = nn.Conv2d(8, 4, 5, padding=2), nn.Conv2d(8, 4, 1)
        self.fc = nn.Linear(16, 10)
        self.aux = nn.Linear(16, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, ceil_mode=True)
        parts = [self.b1(x), self.b2(x), self.b3(x), self.b4(F.max_pool2d(x, 3, 1, 1))]
        x = torch.cat([F.relu(p) for p in parts], 1)
        x = F.avg_pool2d(x, 2).mean((2, 3))
        return {"out": self.fc(x), "aux": self.aux(x)} if self.training else {"out": self.fc(x)}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.qkv, self.proj = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 24), nn.Linear(8, 8)
        self.position = nn.Parameter(torch.randn(1, 64, 8) * 0.1)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.position[:, : x.shape[1]]
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        return self.proj(y + x).mean(1)


NETWORKS = {
    "resnet": ResNet,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3": mobilenet_v3,
    "efficientnet": efficientnet,
    "convnext": ConvNeXt,
    "unet": UNet,
    "yolo": Yolo,
    "inception": Inception,
    "attention": Attention,
}
