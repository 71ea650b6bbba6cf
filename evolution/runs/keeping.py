"""Saving a run generation by generation, and taking it up again.

What is saved beside adapters are the manager's parts (`evolution.runs.parts`), the settings that
the generation was played with, and digests of what the run rests on.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agents.population import LoraPopulation
from evolution.config import EvolutionConfig
from evolution.errors import CheckpointError
from evolution.guard.records import guard_rows
from evolution.individuals.champion import Champion
from evolution.individuals.lineage import lineage_text
from evolution.results import GenerationResult, history_rows
from evolution.runs.changes import Change, find_changes, plain_settings, record
from evolution.runs.checkpoint import RunFolder
from evolution.runs.files import GUARD_FILE, HISTORY_FILE, TRANSCRIPTS_FILE
from evolution.runs.fingerprints import check_same
from evolution.runs.parts import Part, collect, restore
from populora_env.records import Transcript


class Keeper:
    """Keeps one run in a folder.

    Args:
        path: The folder.
        population: Whose adapters are saved.
        config: Settings of the run.
        digests: Says by what the base and the problems are known.

    Raises:
        CheckpointError: As `RunFolder`.
    """

    def __init__(
        self,
        path: str | Path,
        population: LoraPopulation,
        config: EvolutionConfig,
        digests: Callable[[], Mapping[str, str]],
    ) -> None:
        self.folder = RunFolder(path)
        self._population, self._config, self._digests = population, config, digests
        self._rested: Mapping[str, str] = {}  # on what, as it was resumed
        self._best = ""  # content hash of the champion that is kept

    def save(
        self,
        result: GenerationResult,
        transcripts: Sequence[Transcript],
        parts: Mapping[str, Part],
        champion: Champion | None,
    ) -> None:
        """Save a generation.

        Raises:
            CheckpointError: If it cannot be written.
        """
        folder, config = self.folder, self._config
        folder.append(HISTORY_FILE, history_rows(result))
        folder.append(
            TRANSCRIPTS_FILE,
            ({"generation": result.generation, **t.to_dict()} for t in transcripts),
        )
        if result.guard is not None:
            folder.append(GUARD_FILE, guard_rows(result.generation, result.guard))
        state, tensors = collect(parts)
        folder.write("lineage.json", lineage_text(state["lineage"]))
        self.keep_best(champion)
        # What is not seen now, such as weights that are elsewhere, stays as it was known.
        rests = {**self._rested, **{k: v for k, v in self._digests().items() if v}}
        state = {"config": plain_settings(config), **state, "rests_on": rests}
        keep, every = config.keep_generations, config.keep_every
        folder.save(result.generation, self._population, tensors, state, keep, every)

    def keep_best(self, champion: Champion | None) -> Path | None:
        """Write a champion's adapter to ``best``, where it is not yet; returns the folder.

        Raises:
            CheckpointError: If it cannot be written.
        """
        if champion is None:
            return None
        if champion.content_hash != self._best:
            self.folder.replace("best", lambda path: champion.save(self._population, path))
            self._best = champion.content_hash
        return self.folder.path / "best"

    def resume(
        self, parts: Mapping[str, Part], names: Mapping[str, str], note: str
    ) -> tuple[int, list[Change]]:
        """Take up the run where it was last saved.

        Args:
            parts: Given back what they had saved.
            names: What the user calls the base and the problems.
            note: What to say of changed settings in their record.

        Returns:
            The generation to be played next, and what changed in the settings.

        Raises:
            CheckpointError: As `evolution.manager.EvolutionManager.resume`.
        """
        saved = self.folder.load(self._population)
        generation = saved.generation + 1
        self._rested = saved.state.get("rests_on", {})
        check_same(self._rested, self._digests(), {**names, "skeleton": names["base"]})
        changes = find_changes(saved.state.get("config", {}), self._config, generation, note)
        try:
            restore(parts, saved.state, saved.tensors)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"resume: the run's state does not fit: {error}") from error
        record(self.folder, changes, generation)
        # It may be a generation ahead, and deleting what need not be kept may be due.
        self.folder.write("lineage.json", lineage_text(saved.state["lineage"]))
        self.folder.prune(self._config.keep_generations, self._config.keep_every)
        return generation, changes
