"""What the command line needs of other libraries' private parts; nothing else in ``recipes`` reaches into them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """Look up the W&B account as W&B does when a run starts, without asking the user or the network.

    Returns:
        The account; None if this version of W&B looks it up in another place: then it refuses when the run starts.

    Raises:
        ValueError: A key was found that cannot be one.
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
    """Do not pass ``anonymous`` to ``wandb.init``, which warns of it, even of None."""
    logger._wandb_init.pop("anonymous", None)
