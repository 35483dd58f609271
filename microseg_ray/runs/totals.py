"""What is added up over the micrographs of a run, one after another: files, pages, pixels and seam measurements."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import Account
from microseg_ray.names import text
from microseg_ray.stitching.seams import SeamAudit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from microseg_ray.quarantine import Failure
    from microseg_ray.statistics.areas import Measured

__all__ = ["RunTotals"]


@dataclass
class RunTotals:
    """Sums over micrographs; none of them is kept.

    Attributes:
        set_aside: Micrographs that were quarantined and have no result.
        used: Finished micrographs.
        pages: Of their files.
        pixels: Of their masks.
        counted: Pixels of a class.
        bars: Pixels of info bars.
        waiting: Micrographs that are not finished and not quarantined.
        first_waiting: The first of them.
        seams: Seam measurements: pixels and flips added up, the largest difference.
    """

    set_aside: set[str] = field(default_factory=set)
    used: int = 0
    pages: int = 0
    pixels: int = 0
    counted: int = 0
    bars: int = 0
    waiting: int = 0
    first_waiting: str = ""
    seams: dict[str, Any] = field(default_factory=lambda: asdict(SeamAudit(0, 0.0, 0)))

    @classmethod
    def of(cls, failures: Iterable[Failure]) -> RunTotals:
        """The sums before the first micrograph."""
        return cls({failure.path for failure in failures})

    def adding(self, found: Iterable[tuple[str, Measured | None]]) -> Iterator[Measured]:
        """Add micrographs up while they pass.

        Args:
            found: (name, counts) of each micrograph once; None where it is not finished.

        Yields:
            The counts of those that are finished.

        Example:
            >>> import numpy as np
            >>> from microseg_ray.statistics.areas import Measured
            >>> totals = RunTotals()
            >>> rows = [("a.tif", Measured("a.tif", np.array([3, 1]), None, "", "", pixels=4)), ("b.tif", None)]
            >>> len(list(totals.adding(rows)))
            1
            >>> print(totals.accounts({})[0])
            files: 2 seen = 1 used + 0 set aside + 1 not taken (1 not finished, such as b.tif)
        """
        for name, measured in found:
            if measured is not None:
                self._add(name, measured)
                yield measured
            elif name not in self.set_aside:
                self.waiting += 1
                self.first_waiting = self.first_waiting or name

    def _add(self, name: str, measured: Measured) -> None:
        # A micrograph that was used may have a remark in failures.csv.
        self.set_aside.discard(name)
        self.used += 1
        self.pages += measured.pages
        self.pixels += measured.pixels
        self.counted += int(measured.counts.sum())
        self.bars += measured.bar_pixels
        for key, value in measured.seams.items():
            own = self.seams[key]
            self.seams[key] = max(own, value) if key.endswith("max_abs") else own + value

    def accounts(self, not_taken: Mapping[str, int]) -> list[Account]:
        """Files, pages and pixels: seen = used + set aside + not taken.

        Args:
            not_taken: Files that were left alone, by reason.
        """
        left = dict(not_taken)
        if self.waiting:
            left[f"not finished, such as {text(self.first_waiting)}"] = self.waiting
        files = self.used + len(self.set_aside) + sum(left.values())
        pages = {"of other pages (source.page)": self.pages - self.used} if self.pages > self.used else {}
        pixels = {"of info bars": self.bars, "of no class (255)": self.pixels - self.counted - self.bars}
        return [
            Account("files", files, self.used, len(self.set_aside), left),
            Account("pages", self.pages, self.used, 0, pages),
            Account("pixels", self.pixels, self.counted, 0, pixels),
        ]
