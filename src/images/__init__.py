"""Bytes to uint8 tensors: safe decoding, geometry, degradations, augmentation."""
