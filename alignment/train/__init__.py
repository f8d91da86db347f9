"""DPO with LoRA on top of TRL, in its own process: `python -m alignment.train run.json`."""

from alignment.train.job import TrainJob, read_job, read_result, write_job

__all__ = ["TrainJob", "read_job", "read_result", "write_job"]
