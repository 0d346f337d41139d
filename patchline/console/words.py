"""The words of the line on the pages, to be translated."""

from __future__ import annotations

from patchline.archive.ledger import GapKind
from patchline.banks.row_origins import Origin
from patchline.console.roles import Role
from patchline.console.texts import mark
from patchline.operations.label_rates import Sample
from patchline.operations.look_result import Lack
from patchline.protocol.judgement_message import Label
from patchline.protocol.messages import Decision

DECISIONS: dict[str, str] = {
    Decision.PASS: mark("pass"),
    Decision.REVIEW: mark("doubtful"),
    Decision.FAIL: mark("fail"),
    Decision.EXPIRED: mark("too late"),
    Decision.ERROR: mark("not judged"),
}
LABELS: dict[str, str] = {
    Label.GOOD: mark("good"),
    Label.DEFECT: mark("defect"),
    Label.UNSURE: mark("unsure"),
    Label.WITHDRAWN: mark("taken back"),
}
PROCESSES: dict[str, str] = {
    "publisher": mark("publisher"),
    "worker": mark("worker"),
    "gate": mark("gate"),
    "archive": mark("archive"),
}
STATES: dict[str, str] = {
    "serving": mark("works"),
    "standby": mark("stands by"),
    "starting": mark("starts"),
    "blind": mark("is blind"),
    "silent": mark("says nothing"),
}
UNLABELLED = mark("without a judgement")
SAMPLES: dict[str, str] = {
    Sample.NO_PASSES: mark(
        "No part that passed is labelled, so nothing is known of misses, and how many good parts passed: there is no "
        "over-kill and no miss rate. Label some parts that passed, picked blindly."
    ),
    Sample.NO_REJECTS: mark("No part that was rejected is labelled, so there is no over-kill and no miss rate."),
    Sample.ALL: mark("All parts are labelled: the rates are theirs, and the bounds are for further parts like them."),
    Sample.SOME: mark(
        "The labelled parts are a sample, and the archive does not know how it was chosen. The rates are those of the "
        "labelled parts. They hold for all parts only if people picked them blindly, without their decision or score."
    ),
}
LEANINGS: dict[str, str] = {
    "rejects": mark(
        "Rejected parts were looked at more often than parts that passed. So over-kill is overstated, and the miss "
        "rate is understated: of all defects, more pass than it says."
    ),
    "passes": mark(
        "Parts that passed were looked at more often than rejected ones. So over-kill is understated, and the miss "
        "rate is overstated."
    ),
}
DONE: dict[str, str] = {
    "made": mark("The new version is stored. Nothing serves it until it is activated."),
    "activated": mark("Done. Workers were told, and switch between two parts."),
    "activated-unheard": mark(
        "Done. No worker can be heard. Each one looks at the store when it starts, and then within some seconds."
    ),
    "activated-quietly": mark("Done. Workers could not be told, and look by themselves within some seconds."),
}
EFFECTS: dict[str, str] = {
    "passed": mark("would have passed"),
    "rejected": mark("would have been rejected, or gone to a person"),
    "released": mark("was rejected, and would have passed"),
    "caught": mark("passed, and would have been rejected"),
}
ARMS: dict[str, str] = {
    "working": mark("takes what it is told"),
    "faulty": mark("does not take what it is told"),
}
HOLDS: dict[str, str] = {
    "expected": mark("parts without an act"),
    "undone": mark("acts that are not done"),
    "unsent_acts": mark("acts not sent"),
    "window": mark("images under way"),
    "spooled": mark("images on disk"),
    "in_hand": mark("jobs in hand"),
    "refused_lanes": mark("lanes that wait"),
    "pending": mark("verdicts not stored"),
    "pending_pictures": mark("pictures not stored"),
}
ROLES: dict[str, str] = {
    Role.SEE: mark("sees"),
    Role.REVIEW: mark("reviews"),
    Role.ENGINEER: mark("engineer"),
    Role.ADMIN: mark("administrator"),
}
GAPS: dict[GapKind, str] = {
    GapKind.NO_ACT: mark("No gate has acted on it."),
    GapKind.OPPOSITE_ACTS: mark("It was accepted and rejected."),
    GapKind.NOT_PASSED: mark("It was accepted without a verdict that allows it."),
    GapKind.NOT_CONFIRMED: mark("It was rejected, and the sensor has not seen it in the reject bin."),
}
VERSION_STATES: dict[str, str] = {
    "active": mark("active"),
    "previous": mark("active before"),
    "shadow": mark("shadow"),
    "published": mark("published"),
    "retired": mark("retired"),
}
ACTS: dict[str, str] = {
    "publish": mark("published"),
    "activate": mark("activated"),
    "rollback": mark("rolled back"),
    "retire": mark("retired"),
    "shadow": mark("made a shadow"),
    "end-shadow": mark("shadow ended"),
}
OUTCOMES: dict[str, str] = {
    "seen": mark("the sensor saw it in the bin %(bin)s"),
    "escaped": mark("it escaped: rejected, and not seen in the reject bin"),
    "unconfirmed": mark("it was rejected, and nobody read the sensor"),
    "diverted": mark("it was accepted, and seen in the reject bin"),
    "missed": mark("the act came too late for the arm"),
    "unattended": mark("it passed the arm before any gate could act"),
    "unannounced": mark("the PLC saw it, and nobody announced it"),
}
LACKS: dict[Lack, str] = {
    Lack.VERDICT: mark("There is no verdict on it that can be read."),
    Lack.SCORE: mark("It has no score: it was not judged, or too late."),
    Lack.IMAGE: mark("Its picture is missing: the archive did not keep it, or has deleted it by its age or for space."),
    Lack.BANK: mark("The memory bank that judged it is missing."),
    Lack.MODEL: mark("The model that judged it is missing, or is another one now."),
}
ORIGINS: dict[Origin, str] = {
    Origin.FOUND: mark("The nearest good patch, of %(name)s"),
    Origin.UNKNOWN: mark("The memory bank does not say which pictures it is made of. Fit it again to see them."),
    Origin.UNREADABLE: mark("The nearest good patch is of %(name)s, which this console cannot read."),
    Origin.CHANGED: mark("The nearest good patch is of %(name)s, which has changed since the fit."),
}
STEPS: dict[str, str] = {
    "": mark("It begins."),
    "images": mark("It looks at the pictures."),
    "features": mark("It describes the pictures."),
    "coreset": mark("It chooses what the bank keeps."),
    "held-out coresets": mark("It leaves out each picture in turn."),
    "calibration": mark("It compares each picture with the others."),
    "defects": mark("It judges the defects."),
    "store": mark("It puts the version into the store."),
}
FITS: dict[str, str] = {
    "running": mark("is being fitted"),
    "outliers": mark("waits for a look at pictures that stand out"),
    "failed": mark("failed"),
    "cancelled": mark("cancelled"),
    "done": mark("made a version"),
}
LEFT_OUT: dict[str, str] = {
    "exact copies": mark("exact copies"),
    "thumbnails of other images": mark("small copies of others"),
    "much smaller than the others": mark("much smaller than the others"),
    "named by --leave-out": mark("left out by hand"),
    "outliers": mark("left out since they stand out"),
}
CHANGES: dict[str, str] = {
    one: one
    for one in (
        mark("account added"),
        mark("account removed"),
        mark("role changed"),
        mark("password changed"),
        mark("account disabled"),
        mark("account enabled"),
        mark("log-ins ended"),
        mark("logged in"),
        mark("logged out"),
        mark("log-in refused"),
        mark("part judged"),
        mark("bank activated"),
        mark("bank rolled back"),
        mark("bank retired"),
        mark("shadow started"),
        mark("shadow ended"),
        mark("thresholds set"),
        mark("lesson begun"),
        mark("pictures added"),
        mark("pictures sent"),
        mark("fit started"),
        mark("fit cancelled"),
        mark("bank version made"),
        mark("lesson deleted"),
    )
}
