"""One update of the policy: samples -> shaped rewards -> advantages -> packs -> loss -> AdamW step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from talktune.config import AlgorithmConfig, TrainConfig
from talktune.policy.adapter import adapter_off
from talktune.policy.logprobs import token_logprobs
from talktune.rl.advantage import RunningBaseline, advantages_for
from talktune.rl.loss import grpo_tcr_loss, importance_weights
from talktune.rl.metrics import merge
from talktune.rl.packing import Pack, pack
from talktune.rl.reward import overlong_reward
from talktune.rl.schedule import eps_high_at
from talktune.types import Sample
