"""The number format of the networks' computations (--amp)."""

import torch


def pick_amp(amp: str, device: torch.device) -> torch.dtype | None:
    """--amp -> the autocast type, or None for float32; `auto` is bf16 if the hardware has it."""
    if amp == "auto":
        amp = "bf16" if has_fast_bf16(device) else "fp32"
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[amp]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices natively and PyTorch uses it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # both may be limited by the environment: ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA
    limited = torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2")
    mkldnn = torch.backends.mkldnn.is_available()
    if limited or not (mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """The autocast context for the type returned by `pick_amp`."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
