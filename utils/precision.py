"""Which numbers the networks compute with (--amp)."""

import torch


def pick_amp(amp: str, device: torch.device) -> torch.dtype | None:
    """--amp -> the autocast type, or None for plain float32; `auto` is bf16 where it is fast."""
    if amp == "auto":
        amp = "bf16" if has_fast_bf16(device) else "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[amp]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself, and PyTorch uses that."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # all there is, or all that is allowed
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """The autocast context for `pick_amp`'s answer."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
