"""Posts that a provider of dumps made up."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from curate.kernels.posts import CANARY_ID
from curate.stage import Outcome, stage


@stage(reads=("meta",), reasons=("provider_canary",))
def provider_canary(table: pa.Table, *, first_id: int = CANARY_ID) -> Outcome:
    """Drop posts whose `meta` has an `id` from `first_id` on; the value is the id.

    Since 2024 each dump of a site of Stack Exchange has a question 1000000001 and an answer 1000000010 that nobody
    asked or gave, wrong on purpose (meta.stackexchange.com/questions/412018). Ids are counted up from 1 and the largest
    site has under 10^8 of them, so that no post of a user is near. The source never joins such a post to others.
    """
    ids = pc.struct_field(pc.extract_regex(pc.fill_null(table["meta"], ""), r'"id": (?P<id>\d{1,18})'), "id")
    is_made_up = pc.fill_null(pc.greater_equal(ids.cast(pa.int64()), first_id), False)
    reason = pc.if_else(is_made_up, pa.scalar("provider_canary"), pa.scalar(None, pa.string()))
    return Outcome({}, reason, ids)
