"""Inference, which finds parameters: `fit`, its `History`, and saved states."""
