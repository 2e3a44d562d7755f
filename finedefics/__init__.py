"""The method: attribute-bridged alignment of multimodal language models for fine-grained recognition."""

__version__ = "0.1.0"
