"""Everything this project raises on purpose.

    AlignError
    ├── ConfigError            Permanent   a setting, a constitution or a suite is wrong
    ├── InputError             Permanent   a log, a pair file or a training input cannot be used
    │   └── CheckFailed        Permanent   a batch-level data check says stop
    ├── StoreError             Permanent   the store is damaged or newer than this code
    │   ├── StoreCrashed       Permanent   reading the damaged store ended the process that read it
    │   └── StoreBusy          Transient   another process held the store too long
    ├── ModelError             Permanent   a model cannot be found, loaded or served
    │   └── EndpointError      Transient   a model server did not answer as it should
    │       ├── TeacherUnavailable Transient  the teacher's server gave no answer, however often it was asked
    │       └── WrongServer    Transient   the server of the aligned model is not that model, or no longer
    ├── TrainingError          Permanent   training stopped and cannot go on as it is
    ├── ReleaseError           Permanent   a release is missing, incomplete or was edited
    │   └── ReleaseMoved       Permanent   people or another night changed what is in production since the gate compared
    ├── NotAllowed             Permanent   nobody is signed in, or who is may not do this
    ├── NightRunning           Permanent   another night holds the lock
    ├── NotPermitted           Permanent   a file or folder may not be read or written by this account
    └── NoSpace                Permanent   the disk is full

Flows retry only `Transient`. A message says what happened, with the value, what is allowed, and which command to run next.
"""

from __future__ import annotations


class AlignError(Exception):
    """Base of the tree; `str(error)` can be shown to a person unchanged."""


class Transient:
    """Mixin: the same call may succeed later."""


class Permanent:
    """Mixin: the same call will fail again until somebody changes something."""


class ConfigError(AlignError, Permanent):
    """A setting, a constitution or a suite is wrong."""


class InputError(AlignError, Permanent):
    """A log, a pair file or a training input cannot be used."""


class CheckFailed(InputError):
    """A batch-level data check says stop."""


class StoreError(AlignError, Permanent):
    """The store is damaged, or was written by newer code."""


class StoreCrashed(StoreError):
    """Reading the damaged store ended the process that read it."""


class StoreBusy(StoreError, Transient):
    """Another process held the store for longer than the wait allowed."""


class ModelError(AlignError, Permanent):
    """A model cannot be found, loaded or served."""


class EndpointError(ModelError, Transient):
    """A model server did not answer as it should."""


class TeacherUnavailable(EndpointError):
    """The teacher's server gave no answer, however often it was asked."""


class WrongServer(EndpointError):
    """The server that answers for the aligned model is not that model, or no longer: what it just said is not kept."""


class TrainingError(AlignError, Permanent):
    """Training stopped and cannot go on as it is."""


class ReleaseError(AlignError, Permanent):
    """A release is missing, incomplete or was edited."""


class ReleaseMoved(ReleaseError):
    """Production is no longer the release that the gate compared with."""


class NotAllowed(AlignError, Permanent):
    """Nobody is signed in, or who is may not do this."""


class NightRunning(AlignError, Permanent):
    """Another night holds the lock."""


class NotPermitted(AlignError, Permanent):
    """A file or folder may not be read or written by this account."""


class NoSpace(AlignError, Permanent):
    """The disk is full."""
