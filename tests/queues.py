"""The queues of the category that most tests use."""

from patchline.protocol import topology

CATEGORY = "brick"
JOBS_QUEUE = topology.category_queue(topology.JOBS, CATEGORY)
BACKLOG_QUEUE = topology.category_queue(topology.BACKLOG, CATEGORY)
SUSPECTS_QUEUE = topology.category_queue(topology.SUSPECTS, CATEGORY)
