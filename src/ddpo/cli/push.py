"""`ddpo push`: a trained model goes to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddpo.runtime.errors import ModelError, RunFolderError


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="A repository of the hub; made if needed.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
) -> None:
    """Upload a run's trained model and its card to the Hugging Face Hub, as whom `hf auth login` has logged in."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    from ddpo.report.card import write_card
    from ddpo.runs.folder import RunFolder, unwritable

    folder = RunFolder.open(run)
    if not folder.model.is_dir():
        raise RunFolderError(f"{run} has no trained model yet; train it to its end, or stop it after an iteration.")
    try:
        write_card(folder, repository=repository)
    except OSError as error:
        raise unwritable(folder.model, error) from error
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder.model, commit_message=f"{folder.path.name}, by ddpo")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, HTTPError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{repository} was not pushed: {reason} `hf auth login` logs in.") from error
    typer.echo(url)
