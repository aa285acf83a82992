"""Examples of a document run in order, share names and files, and fail where they are wrong."""

import os
import time
from pathlib import Path

import pytest

from tests import documents

TOGETHER = """
<!-- file: shop.py -->
```python
price = 7
```
Some words.

<!-- run -->
```python
import shop
total = 6 * shop.price
```

<!-- run -->
```console
$ cat shop.py > copy.py
what it prints is not compared
$ sleep 60 & echo $! > sleeper
```

```python
raise SystemExit("it has no mark")
```

<!-- run -->
```python
import copy_of_nothing_is_not_needed if False else None
```
"""


def test_blocks_run_in_order(tmp_path: Path) -> None:
    text = TOGETHER.replace("import copy_of_nothing_is_not_needed if False else None", "assert total == 42")
    assert documents.run("page", text, tmp_path) == 4
    assert (tmp_path / "copy.py").read_text() == "price = 7\n"
    assert Path.cwd() != tmp_path
    assert is_gone(int((tmp_path / "sleeper").read_text()))


def test_wrong_python_fails_with_the_documents_line(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError) as caught:
        documents.run("page", TOGETHER, tmp_path)
    assert (caught.value.filename, caught.value.lineno) == ("page", 27)


def test_a_failing_command_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit status 3"):
        documents.run("page", "<!-- run -->\n```console\n$ exit 3\n```\n", tmp_path)


def test_a_mark_without_a_block_fails() -> None:
    with pytest.raises(ValueError, match="above no fenced block"):
        documents.blocks("<!-- run -->\nno block\n")


def is_gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False
