"""Where the modules of version 0.1 are now."""

from populora_env.moved import into_rooms

_ROOMS = {
    "compiled": "compiling native",
    "engine": "adapters generation layers routing sampling slots=kv_cache targets",
    "learning": "advantages learners likelihood objective optimizer packing rejection",
    "loading": "gguf_header linear model_checks=checks models",
    "measuring": "benchmark figures=statistics reply_log",
}
NAMES = into_rooms("agents", _ROOMS)
