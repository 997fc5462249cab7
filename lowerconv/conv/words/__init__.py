"""Low-precision convolutions: words of neighbouring channels in place of float32.

Images (N, C, H, W) of bytes are words (N, ceil(C / 4), H, W), the lowest channel in the lowest
byte.  A convolution of words is that of the fused engine over items of four bytes; only what a step
multiplies (`codegen.dots`) and what becomes of the sums (`codegen.microkernel_requantize`) differ.
"""
