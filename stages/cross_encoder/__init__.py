"""Cross-encoders: query and passage read together by one transformer (Nogueira and Cho 2019, arXiv 1901.04085)."""

from stages.cross_encoder.kind import KIND, CrossEncoderSettings

__all__ = ["KIND", "CrossEncoderSettings"]
