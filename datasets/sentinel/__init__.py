"""Sentinel patches: SEN12MS, DFC2020, folders of TIFFs."""
