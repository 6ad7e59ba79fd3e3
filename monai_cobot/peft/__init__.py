"""Parameter-efficient fine-tuning: one registry, one contract, one file a method, and COBOT over any bottleneck."""

from .adapter import Adapter, adapt
from .adaptformer import AdaptFormer
from .bitfit import BitFit
from .conv_lora import ConvLora
from .decoder_only import DecoderOnly
from .freeze import Freeze
from .full import Full
from .houlsby import Houlsby
from .io import AdapterConfig, AdapterError, load_adapter, read_adapter_config, save_adapter
from .lora import Lora
from .loss import AdapterLoss
from .lst import Lst
from .method import METHODS, AdaptedModule, Method, is_orchestrated, options_of, register, width_option
from .orchestration import CrossBlockOrchestrator
from .sam_adapter import SamAdapter
from .sam_parser import SamParser
from .ssf import Ssf
from .vpt import Vpt

__all__ = [
    "METHODS",
    "AdaptFormer",
    "AdaptedModule",
    "Adapter",
    "AdapterConfig",
    "AdapterError",
    "AdapterLoss",
    "BitFit",
    "ConvLora",
    "CrossBlockOrchestrator",
    "DecoderOnly",
    "Freeze",
    "Full",
    "Houlsby",
    "Lora",
    "Lst",
    "Method",
    "SamAdapter",
    "SamParser",
    "Ssf",
    "Vpt",
    "adapt",
    "is_orchestrated",
    "load_adapter",
    "options_of",
    "read_adapter_config",
    "register",
    "save_adapter",
    "width_option",
]
