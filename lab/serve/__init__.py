"""The endpoint: weighted production variants behind SageMaker's and Triton's protocols.

A supervisor owns weights, counters and guardrails; workers each serve HTTP from a socket of their own. Neither imports
torch, mlflow or TVM's compiler.
"""
