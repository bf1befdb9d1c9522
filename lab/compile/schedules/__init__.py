"""Schedules by rule, without tuning: each file one rule; the tables below give the order in which they are tried.

Adding a schedule: one file with `schedule(kernel, machine)`, one line here, one same-output test.
"""

from lab.core.tables import LazyTable

CPU_RULES = LazyTable(
    "CPU schedule",
    {
        "rows": "lab.compile.schedules.rows:schedule",
        "recurrent": "lab.compile.schedules.recurrent:schedule",
        "resize": "lab.compile.schedules.resize:schedule",
        "conv2d_integer": "lab.compile.schedules.conv2d_integer:schedule",
        "conv2d_winograd": "lab.compile.schedules.winograd:schedule",
        "conv2d_direct": "lab.compile.schedules.conv2d:schedule",
        "matmul": "lab.compile.schedules.matmul:schedule",
        "window": "lab.compile.schedules.window:schedule",
        "elementwise": "lab.compile.schedules.elementwise:schedule",
        "generic": "lab.compile.schedules.generic:schedule",
    },
)
GPU_RULES = LazyTable(
    "GPU schedule",
    {
        "rows": "lab.compile.schedules.rows:on_gpu",
        "recurrent": "lab.compile.schedules.recurrent:on_gpu",
        "gemm": "lab.compile.schedules.gemm_gpu:schedule",
        "window": "lab.compile.schedules.dlight:window",
        "dlight.matmul": "lab.compile.schedules.dlight:matmul",
        "dlight.gemv": "lab.compile.schedules.dlight:gemv",
        "dlight.reduction": "lab.compile.schedules.dlight:reduction",
        "dlight.general_reduction": "lab.compile.schedules.dlight:general_reduction",
        "dlight.fallback": "lab.compile.schedules.dlight:fallback",
    },
)
NAIVE = "naive"
LIBRARY = "library"
