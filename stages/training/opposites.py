"""Words whose exchange turns what a sentence says round: comparisons, times, directions, causes, effects."""

from __future__ import annotations

_PAIRS = """
before/after first/last largest/smallest highest/lowest higher/lower most/least more/less greater/smaller
oldest/youngest older/younger longest/shortest longer/shorter fastest/slowest best/worst better/worse earlier/later
early/late increase/decrease increases/decreases increased/decreased increasing/decreasing rise/fall rose/fell
gain/loss win/lose won/lost victory/defeat high/low long/short large/small old/new deep/shallow wide/narrow
strong/weak hard/soft full/empty rich/poor heavy/light hot/cold good/bad safe/dangerous legal/illegal
possible/impossible required/optional allowed/forbidden public/private same/different internal/external
domestic/foreign primary/secondary major/minor majority/minority acute/chronic positive/negative maximum/minimum
upper/lower inner/outer inside/outside above/below left/right up/down top/bottom near/far with/without north/south
northern/southern east/west eastern/western summer/winter day/night begin/end began/ended birth/death born/died
always/never every/no both/neither many/few often/rarely usually/rarely add/remove added/removed include/exclude
includes/excludes accept/reject accepted/rejected support/oppose supported/opposed attacked/defended bought/sold
buy/sell import/export imports/exports open/closed cause/prevent causes/prevents caused/prevented treats/causes
treatment/cause treatments/causes diagnosis/prevention presence/absence risk/benefit risks/benefits
advantage/disadvantage advantages/disadvantages activates/inhibits activation/inhibition promotes/suppresses
enhances/reduces enhanced/reduced male/female men/women father/son mother/daughter husband/wife brother/sister
king/queen teacher/student employer/employee
"""

OPPOSITES: dict[str, str] = {}
for _pair in _PAIRS.split():
    _one, _other = _pair.split("/")
    OPPOSITES.setdefault(_one, _other)
    OPPOSITES.setdefault(_other, _one)
