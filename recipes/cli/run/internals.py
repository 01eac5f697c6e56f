"""Private parts of other libraries that the command line needs; no other file of ``recipes`` uses any."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger


@dataclass(frozen=True)
class WandbAccount:
    """The W&B account that a run would be sent to.

    Attributes:
        online: whether runs are sent at all (``WANDB_MODE``, or ``wandb offline`` in this folder).
        server: URL of the server.
        has_credentials: whether there is a key or an identity token for the server.
    """

    online: bool
    server: str
    has_credentials: bool


def wandb_account() -> WandbAccount | None:
    """Look up the W&B account as W&B does when a run starts, without prompting and without the network.

    Returns:
        The account; None if this version of W&B has no such lookup: it then reports a missing key when the run starts.

    Raises:
        ValueError: The key has an invalid format.
    """
    try:
        from wandb.errors import AuthenticationError
        from wandb.sdk.lib.wbauth import authenticate_session
        from wandb.sdk.wandb_setup import singleton

        settings = singleton().settings
        auth = authenticate_session(host=settings.base_url, source="zoo", prompt=False, update_session=False)
    except (ImportError, AttributeError, TypeError):
        return None
    except AuthenticationError as error:
        raise ValueError(str(error)) from error
    return WandbAccount(settings.mode in ("online", "shared", "run"), settings.base_url, auth is not None)


def omit_anonymous(logger: "WandbLogger") -> None:
    """Remove ``anonymous`` from the arguments of ``wandb.init``, which warns about it, even if it is None."""
    logger._wandb_init.pop("anonymous", None)


def exit_at_once(code: int) -> NoReturn:
    """End the process without any clean-up."""
    os._exit(code)
