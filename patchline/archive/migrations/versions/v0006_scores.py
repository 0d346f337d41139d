"""An index of the scores of each bank by time, and one of the judgements by time, for the console's histograms."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the indexes. With a million verdicts this takes some seconds."""
    columns = ["category", "memory_bank", "decided_at", "score", "review_threshold", "decision", "replay"]
    op.create_index("verdicts_scores", "verdicts", columns)
    op.create_index("judgements_time", "judgements", ["judged_at"])
