"""One image changed and normalised in one pass: bytes in, float32 out.

All that moves pixels (crop, resize, flip, rotation, lens) is one map from a pixel of the result to
a place in the image, so that every pixel is read and interpolated once; what changes colours (cast,
vignette, normalisation) is applied to the row while it is in the first-level cache::

    result (i, j) --flip, resize, rotation, lens--> image (y, x)     a row of places
    image  (y, x) --bilinear-->  value 0..255                        a row of each channel
    value --cast, clip, vignette, normalise-->  float32              the same row again

Where nothing but whole pixels move, values are looked up instead: the results are those of
`Normalizer` bit for bit.  Places outside of the image are mirrored at its border.

The kernels run on the thread that calls them and hold no lock: threads of a loader run them side by
side.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from lowerconv.codegen.compiled import njit
from lowerconv.runtime.launch import pointer

LARGEST_SIDE = 32767  # of an image: a place in it fits into 31 bits

#: What happens to one image; `augment.Augment` draws these, and `identity` leaves it as it is.
CHANGE = np.dtype(
    [
        ("top", np.float64),  # the box that is taken, in pixels of the image: its first row,
        ("left", np.float64),  # ... its first column,
        ("step_y", np.float64),  # ... and how many rows of the image a row of the result spans
        ("step_x", np.float64),
        ("flip", np.int64),  # 1: left and right change places
        ("angle", np.float64),  # degrees, counter-clockwise
        ("lens", np.float64),  # > -1; above 0 lines bulge outwards (barrel), below 0 inwards
        ("radius", np.float64),  # where darkening begins; 0 is the centre, 1 a corner
        ("dark", np.float64),  # how much of the light is lost in the corners, 0..1
    ]
)

_BAND = 512  # pixels of the result that go through together: their buffers fill half an L1 cache
_MAX_SAMPLES = 8  # along each direction of a pixel, where an image shrinks


def identity(count: int, sizes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return changes that take the centre of each image as it is.

    Parameters
    ----------
    count : int
    sizes : ndarray, (count, 2)
        Height and width of each image.
    shape : (height, width)
        Of the results.
    """
    changes = np.zeros(count, CHANGE)
    changes["step_y"] = changes["step_x"] = 1
    for axis, name in enumerate(("top", "left")):
        changes[name] = (sizes[:, axis] - shape[axis]) // 2
    return changes


@njit(cache=True, nogil=True)
def _mirror(i, size):
    """Return the pixel that stands for pixel i of a row of `size`."""
    if i < 0:
        i = -i
    if i > size - 1:
        i = 2 * (size - 1) - i
    return min(max(i, 0), size - 1)


@njit(cache=True, nogil=True)
def _cosine_sine(degrees):
    """Return both exactly for quarter turns, which have to move whole pixels."""
    turns = degrees / 90
    if turns == np.floor(turns):
        quarter = int(turns) % 4
        if quarter == 0:
            return 1.0, 0.0
        if quarter == 1:
            return 0.0, 1.0
        if quarter == 2:
            return -1.0, 0.0
        return 0.0, -1.0
    angle = np.radians(degrees)
    return np.cos(angle), np.sin(angle)


@njit(cache=True, nogil=True)
def _look_up(image, change, cast, table, columns, tone, out):
    """Move whole pixels, and look up what becomes of their values."""
    channels, height, width = out.shape
    top, left = int(change.top), int(change.left)
    for j in range(width):
        at = width - 1 - j if change.flip else j
        columns[j] = _mirror(left + at, image.shape[2])
    straight = columns[width - 1] - columns[0] == width - 1 and change.flip == 0
    for c in range(channels):
        for value in range(256):
            tone[value] = table[c, min(max(value + cast[c], 0), 255)]
        for i in range(height):
            source = image[c, _mirror(top + i, image.shape[1])]
            target = out[c, i]
            if straight:
                source = source[columns[0] : columns[0] + width]
                for j in range(width):
                    target[j] = tone[source[j]]
            else:
                for j in range(width):
                    target[j] = tone[source[columns[j]]]


@njit(cache=True, nogil=True)
def _places(change, turn, centre, size, shape, row, targets):
    """Find where a row of pixels of the result comes from.

    Parameters
    ----------
    turn : (float, float)
        Cosine and sine of the angle.
    centre : (float, float)
        Row of the result counted from its centre, and how far right of the pixels' centres.
    size : (int, int)
        Height and width of the result.
    shape : (height, width)
        Of the image.
    row : int
        Where the row begins in the following.
    targets : (ndarray, ndarray, ndarray)
        Get the pixel above and left of each place, and how far below and right of it that is.
    """
    (v, shift), (height, width), (offsets, down, right) = centre, size, targets
    f32 = np.float32
    zero, one, two = f32(0), f32(1), f32(2)
    sign = f32(-1) if change.flip else one
    turn_x, turn_y = f32(turn[0]), f32(turn[1])
    step_y, step_x = f32(change.step_y), f32(change.step_x)
    # Lens: radii scale by (1 + k r^2) / (1 + k), which leaves the corners where they are.
    bulge = f32(change.lens)
    unit = f32(4.0 / (height * height + width * width))
    fixed = one / (one + bulge)
    middle_y = f32(change.top + change.step_y * height / 2 - 0.5)
    middle_x = f32(change.left + change.step_x * width / 2 - 0.5)
    last_y, last_x = f32(shape[0] - 1), f32(shape[1] - 1)
    # The neighbours below and to the right must exist: the last pixel is reached from the one
    # before, at a distance of 1.
    most_y, most_x = max(shape[0] - 2, 0), max(shape[1] - 2, 0)
    from_middle = f32(v)
    origin = f32(shift - (width - 1) / 2)
    offsets, down, right = (
        offsets[row : row + width],
        down[row : row + width],
        right[row : row + width],
    )
    for j in range(offsets.size):
        column = sign * (f32(j) + origin)
        f = (one + bulge * (column * column + from_middle * from_middle) * unit) * fixed
        a, b = column * step_x, from_middle * step_y
        x = middle_x + (a * turn_x - b * turn_y) * f
        y = middle_y + (a * turn_y + b * turn_x) * f
        x = -x if x < zero else x
        y = -y if y < zero else y
        x = two * last_x - x if x > last_x else x
        y = two * last_y - y if y > last_y else y
        x = x if x > zero else zero  # so written, NaN becomes a place too
        y = y if y > zero else zero
        ix, iy = np.int32(x), np.int32(y)
        ix = np.int32(most_x) if ix > most_x else ix
        iy = np.int32(most_y) if iy > most_y else iy
        right[j] = x - f32(ix)
        down[j] = y - f32(iy)
        offsets[j] = np.uint32(iy * np.int32(shape[1]) + ix)


@njit(cache=True, nogil=True)
def _interleave(image, first, packed):
    """Put up to four channels from `first` on side by side, a pixel into 32 bits.

    So a place is read with four loads, not with four for each channel.
    """
    for h in range(image.shape[1]):
        target = packed[h * image.shape[2] : (h + 1) * image.shape[2]]
        source = image[first, h]
        for w in range(target.size):
            target[w] = source[w]
        for lane in range(1, min(image.shape[0] - first, 4)):
            source = image[first + lane, h]
            bits = np.uint32(8 * lane)
            for w in range(target.size):
                target[w] |= np.uint32(source[w]) << bits


@njit(cache=True, nogil=True)
def _gather(packed, offsets, below, beside, corners):
    """Read the four pixels around each place of a row."""
    a, b, c, d = corners[0], corners[1], corners[2], corners[3]
    for j in range(offsets.size):
        at = offsets[j]
        a[j] = packed[at]
        b[j] = packed[at + beside]
        c[j] = packed[at + below]
        d[j] = packed[at + below + beside]


@njit(cache=True, nogil=True)
def _blend(corners, lane, down, right, fresh, target):
    """Add to a row what a channel has at its places, interpolated between four pixels.

    A `fresh` row is written, whatever was there.
    """
    bits, byte = np.uint32(8 * lane), np.uint32(255)
    first, second, third, fourth = corners[0], corners[1], corners[2], corners[3]
    for j in range(target.size):
        a = np.float32(np.int32((first[j] >> bits) & byte))
        b = np.float32(np.int32((second[j] >> bits) & byte))
        c = np.float32(np.int32((third[j] >> bits) & byte))
        d = np.float32(np.int32((fourth[j] >> bits) & byte))
        upper = a + right[j] * (b - a)
        lower = c + right[j] * (d - c)
        before = np.float32(0) if fresh else target[j]
        target[j] = before + upper + down[j] * (lower - upper)


@njit(cache=True, nogil=True)
def _light(change, v, height, width, row, light):
    """Find how much of the light of each pixel of a row a vignette leaves."""
    f32 = np.float32
    unit = f32(4.0 / (height * height + width * width))
    radius, dark = f32(change.radius), f32(change.dark)
    slope = f32(1 / (1 - change.radius))
    below = f32(v * v)
    origin = f32((width - 1) / 2)
    light = light[row : row + width]
    for j in range(light.size):
        column = f32(j) - origin
        t = (np.sqrt((column * column + below) * unit) - radius) * slope
        t = f32(0) if t < f32(0) else t
        light[j] = f32(1) - dark * t * t


@njit(cache=True, nogil=True)
def _finish(target, share, cast, light, scale, shift):
    """Make values of sums of `1 / share` places, then cast, darken and normalise them."""
    for j in range(target.size):
        value = target[j] * share + cast
        value = np.float32(0) if value < np.float32(0) else value
        value = np.float32(255) if value > np.float32(255) else value
        target[j] = value * light[j] * scale + shift


@njit(cache=True, nogil=True)
def _samples(step):
    """Return how many places of a pixel are read, so that nothing is passed over."""
    return min(max(int(np.ceil(step - 1e-6)), 1), _MAX_SAMPLES)


@njit(inline="always")
def _moves_whole_pixels(change):
    return (
        change.angle == 0
        and change.lens == 0
        and change.step_y == 1
        and change.step_x == 1
        and change.top == np.floor(change.top)
        and change.left == np.floor(change.left)
    )


@njit(inline="always")
def _resample(image, change, cast, scale, shift, buffers, packed, out):
    """Interpolate an image at the places of each band of rows of the result, then finish these."""
    offsets, corners, down, right, light = buffers
    channels, height, width = out.shape
    shape = image.shape[1], image.shape[2]
    below = np.uint32(shape[1] if shape[0] > 1 else 0)
    beside = np.uint32(1 if shape[1] > 1 else 0)
    many_y, many_x = _samples(change.step_y), _samples(change.step_x)
    many = many_y * many_x
    turn = _cosine_sine(change.angle)
    targets = offsets, down, right
    rows = offsets.size // width
    for first in range(0, channels, 4):
        last = min(first + 4, channels)
        _interleave(image, first, packed)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            for sample in range(many):
                up = (sample // many_x + 0.5) / many_y - 0.5
                aside = (sample % many_x + 0.5) / many_x - 0.5
                for i in range(top, bottom):
                    row, centre = (i - top) * width, (i - (height - 1) / 2 + up, aside)
                    _places(change, turn, centre, (height, width), shape, row, targets)
                _gather(packed, offsets, below, beside, corners)
                for c in range(first, last):
                    target = out[c, top:bottom].reshape(-1)
                    _blend(corners, c - first, down, right, sample == 0, target)
            if change.dark > 0:
                for i in range(top, bottom):
                    _light(change, i - (height - 1) / 2, height, width, (i - top) * width, light)
            for c in range(first, last):
                target = out[c, top:bottom].reshape(-1)
                share = np.float32(1 / many)
                _finish(target, share, np.float32(cast[c]), light, scale[c], shift[c])


@njit(cache=True, nogil=True)
def transform(addresses, sizes, changes, casts, table, scale, shift, out):
    """Change images that lie anywhere in memory, one after another.

    Parameters
    ----------
    addresses : ndarray, (n,), int64
        Where each image (C, H, W) begins: its bytes without gaps.
    sizes : ndarray, (n, 2), int64
        Their heights and widths.
    changes : ndarray, (n,), CHANGE
    casts : ndarray, (n, C), int32
        Added to the values of each channel, which stay within 0..255.
    table : ndarray, (C, 256), float32
        What each value becomes.
    scale, shift : ndarray, (C,), float32
        The same as a line: ``value * scale + shift``, for values between bytes.
    out : ndarray, (n, C, height, width), float32
        Overwritten with the results.
    """
    _, channels, height, width = out.shape
    columns, tone = np.empty(width, np.int32), np.empty(256, np.float32)
    band = min(max(1, _BAND // width), height) * width
    place = np.empty(band, np.float32), np.empty(band, np.float32), np.empty(band, np.float32)
    buffers = np.empty(band, np.uint32), np.empty((4, band), np.uint32), *place
    packed = np.empty(0, np.uint32)
    for i in range(len(addresses)):
        image = carray(pointer(addresses[i]), (channels, sizes[i, 0], sizes[i, 1]), np.uint8)
        change = changes[i]
        if _moves_whole_pixels(change) and change.dark == 0:
            _look_up(image, change, casts[i], table, columns, tone, out[i])
            continue
        if packed.size < sizes[i, 0] * sizes[i, 1]:
            packed = np.empty(sizes[i, 0] * sizes[i, 1], np.uint32)
        buffers[4][:] = 1
        _resample(image, change, casts[i], scale, shift, buffers, packed, out[i])
