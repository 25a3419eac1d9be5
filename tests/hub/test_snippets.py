"""What a card tells a reader to run runs, where there is no hftk."""

import json
import re

RUN = """
import json
for name, snippet in json.loads(sys.argv[1]).items():
    try:
        exec(snippet, {})
    except Exception as error:
        raise RuntimeError(f"{name}: {snippet}") from error
assert not any(name.partition(".")[0] == "hftk" for name in sys.modules)
"""


def test_how_to_load_each_kind_of_run_without_hftk(runs, elsewhere):
    snippets = {}
    for card in runs.glob("*/README.md"):
        [snippet] = re.findall(r"^```python\n(.*?)^```", card.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        snippets[card.parent.name] = snippet
    assert len(snippets) == 7
    elsewhere(RUN, json.dumps(snippets))
