"""What runs a transformer: torch as it is, or OpenVINO or ONNX Runtime on a form of the model made beforehand.

A runtime gets a torch module whose ``forward(input_ids, attention_mask, token_type_ids)``, int64 [n, L] each, gives
float [n, outputs], and knows nothing else of it. Importing this loads none of them.
"""

from stages.runtimes.choice import Dtype, Runtime, RuntimeName, load_runtime, runtime_problems

__all__ = ["Dtype", "Runtime", "RuntimeName", "load_runtime", "runtime_problems"]
