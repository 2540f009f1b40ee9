"""The account at Weights & Biases: is there one, does anybody answer there, and what was W&B stopped by."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.error
import urllib.request

from ..errors import ConfigError
from .trackers import require


def choose_mode(mode: str | None, key: str = "logger.wandb.mode") -> str:
    """`online` or `offline`: as asked for, or by whether this machine is logged in; no network is touched.

    key: what is typed to ask for a mode. `disabled` comes from WANDB_MODE only. Raises ConfigError where
    online is asked for without an account.
    """
    quiet()
    import wandb

    wanted = mode or os.environ.get("WANDB_MODE") or None
    if wanted in ("offline", "dryrun"):
        return "offline"
    if wanted == "disabled":
        return wanted
    if wanted not in (None, "online"):
        raise ConfigError(f"WANDB_MODE={wanted} is not a mode: set online, offline or disabled")
    try:
        account = wandb.login(prompt=False, verify=False)
    except wandb.Error as error:
        raise ConfigError(f"W&B does not take this login: {error}") from error
    if wanted == "online" and not account:
        raise ConfigError(
            f"{key}=online needs an account, and this machine is not logged in: type wandb login, "
            f"or {key}=offline"
        )
    return "online" if account else "offline"


def silence() -> str:
    """Why nobody answers where W&B's server is; empty where anybody does, with whatever answer."""
    import wandb

    url = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)
        return "" if isinstance(why, ssl.SSLError) else f"{url}: {why}"
    return ""


def quiet() -> None:
    """W&B's reports of its own errors are off, and it prints nothing, unless the environment asks for it."""
    require("wandb")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")


def reason(error: BaseException) -> str:
    """What W&B was stopped by, without its advice to people who call it themselves."""
    lines = str(error).splitlines() or [type(error).__name__]
    return next((line for line in lines if "while retrying: " in line), lines[0]).split("while retrying: ")[
        -1
    ]
