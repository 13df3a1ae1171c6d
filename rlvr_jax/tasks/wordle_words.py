"""Words of five letters: a few hundred common ones, or a user's files of them."""

import hashlib
import json
import logging
import re
from pathlib import Path

log = logging.getLogger(__name__)

N_LETTERS = 5
_WORD = re.compile(r"[a-z]{5}")
_MOST_NAMED = 5  # faults in one message

_COMMON = """
    about above actor admit adult after again agent agree ahead alarm album alert alike alive allow alone along
    anger angle ankle apple apply april apron arena argue arise armor arrow aside asset audio award aware bacon
    badge baker basic basin beach beard beast begin being below bench berry birth black blade blame blank blaze
    blend blind block blood bloom board boost booth bowls brain brake brand brave bread break brick bride brief
    bring broad broom brown brush build bunch cabin cable camel candy cargo carry catch cause chain chair chalk
    charm chart chase cheap check cheek cheer chess chest chief child chill choir chose civil claim class clean
    clear clerk cliff climb clock close cloth cloud clown coach coast color coral couch could count court cover
    craft crane crash cream creek crime crisp cross crowd crown crust curve cycle daily dairy dance dealt delay
    dense depth diary dirty ditch dozen draft drain drama dream dress drift drill drink drive eager eagle early
    earth elbow elder empty enemy enjoy enter entry equal error essay event every exact exist extra fable faint
    fairy faith false fancy feast fence ferry fever fiber field fifty fight final first flame flash fleet float
    flock flood floor flour fluid flute focus force forge forty found frame fresh front frost fruit funny ghost
    giant given glass globe glory glove grace grade grain grand grant grape graph grass great green greet grill
    group grove guard guess guest guide habit happy harsh heart heavy hedge hello hobby honey honor horse hotel
    house human humor ideal image index inner issue ivory jelly jewel joint judge juice knife knock label labor
    large laser later laugh layer learn least leave lemon level light limit linen liver local logic loose lucky
    lunch magic major maple march match mayor medal media mercy merge merit metal meter might minor model money
    month moral motor mount mouse mouth movie music naval nerve never night noble noise north novel nurse ocean
    offer often olive onion opera orbit order organ other outer owner oxide paint panel paper party paste patch
    pause peace peach pearl pedal phone photo piano piece pilot pitch pizza place plain plane plant plate plaza
    point polar porch pound power press price pride prime print prize proof proud pulse pupil queen quest quick
    quiet quite quote radar radio raise ranch range rapid ratio reach ready relax reply rider right river roast
    robin robot rough round route royal rural salad sauce scale scarf scene scent score scout seven shade shake
    shape share sharp sheep sheet shelf shell shift shine shirt shore short shout skill skirt sleep slice slide
    slope small smart smell smile smoke snake solar solid solve sound south space spare spark speak speed spell
    spend spice spoon sport stage stair stamp stand start state steam steel stick still stone store storm story
    stove straw sugar sunny swamp sweet swing sword table teach tenth thank theme thick thing think third three
    thumb tiger tight title toast today token tooth topic total touch tower toxic trace track trade trail train
    treat trend trial tribe trick truck trust truth tulip twice uncle under union unite unity until upper urban
    usual valid value video visit vital vivid voice wagon waste watch water wheat wheel where which white whole
    width woman world worry worth wound woven wrist write yacht yield young youth zebra
"""
COMMON_WORDS = tuple(_COMMON.split())


def words_of_file(path: str, *, setting: str) -> tuple[str, ...]:
    """The different words of a file, in its order, in lower case: one per line, or rows {"word": ...} of a .jsonl file.

    Empty lines are skipped. Raises ValueError naming the file, the setting and the numbers of lines that hold no word.
    """
    try:
        file = Path(path).expanduser()
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, RuntimeError) as error:  # the latter: ~ of nobody
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{setting}={path!r} cannot be read ({why}); name a file of words") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{setting}={path!r} is not UTF-8 ({error.reason} at byte {error.start})") from error
    words, faults = {}, []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            word = (_word_of_row(line) if file.suffix == ".jsonl" else line).strip().lower()
            if not _WORD.fullmatch(word):
                raise ValueError(f"{word[:20]!r} is not {N_LETTERS} letters a to z")
        except ValueError as error:
            faults.append(f"line {number}: {error}")
        else:
            words[word] = None
    if faults:
        more = f"; and {len(faults) - _MOST_NAMED} more" if len(faults) > _MOST_NAMED else ""
        raise ValueError(
            f"{setting}={path!r} has lines that are no words: {'; '.join(faults[:_MOST_NAMED])}{more}. "
            "Mend or remove them"
        )
    if not words:
        raise ValueError(f"{setting}={path!r} has no words; it needs one per line")
    return tuple(words)


def _word_of_row(line: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("no JSON") from error
    if not isinstance(row, dict) or not isinstance(row.get("word"), str):
        raise ValueError('no row {"word": "..."}')
    return row["word"]


def words_fingerprint(*lists: tuple[str, ...]) -> str:
    """32 hex digits over lists of words."""
    text = "+".join(" ".join(words) for words in lists)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
