"""The Wordle task: problems by index, the game's replies, and what each reward says of a game."""

import time

import numpy as np
import pytest

from rlvr_jax.tasks.rewards import RewardSettings
from rlvr_jax.tasks.wordle import OWN_REWARDS, Wordle
from rlvr_jax.tasks.wordle_feedback import feedback, is_consistent
from rlvr_jax.tasks.wordle_words import COMMON_WORDS


def make_task(**options):
    weights = options.pop("weights", ())
    settings = {"words": "", "allowed_words": "", "n_words": 75, "n_turns": 6, "n_clues": 0, "guess_style": "bare"}
    rewards = RewardSettings(names=(), weights=weights, correct_at=1.0, limit_s=1.0, n_processes=1)
    return Wordle(**settings | options, rewards=rewards)


def problems_of(task):
    return [task.train_problem(i) for i in range(task.n_train)], [
        task.heldout_problem(i) for i in range(task.n_heldout)
    ]


def frost(task, clues=()):
    """The problem of FROST, with clues of one's own."""
    problem = task.train_problem(0)
    return type(problem)(problem.prompt, "frost", content="frost", row={"clues": tuple(clues)})


def test_75_words_are_60_to_train_on_and_15_held_out():
    train, heldout = problems_of(make_task())
    assert (len(train), len(heldout)) == (60, 15)
    words = {problem.answer for problem in train + heldout}
    assert len(words) == 75
    assert words <= set(COMMON_WORDS)
    assert not {p.content for p in train} & {p.content for p in heldout}


def test_a_problem_is_a_function_of_its_index_and_0_words_are_all_of_them():
    assert make_task().train_problem(7) == make_task().train_problem(7)
    train, heldout = problems_of(make_task(n_words=0))
    assert len(train) + len(heldout) == len(COMMON_WORDS)
    assert len(heldout) == len(COMMON_WORDS) // 5


@pytest.mark.parametrize("index", [-1, 60])
def test_there_is_no_problem_beyond_the_last(index):
    with pytest.raises(IndexError):
        make_task().train_problem(index)


def test_a_prompt_shows_clues_that_are_right_and_other_words_than_the_secret():
    task = make_task(n_turns=1, n_clues=2)
    train, _ = problems_of(task)
    assert len(train) == 60 * 16
    assert len({problem.answer for problem in train[:60]}) == 60  # every word before any comes again
    for problem in train[::37]:
        head, *lines, end = problem.prompt.split("\n")
        assert (head, end, len(lines)) == ("wordle", "", 2)
        for line in lines:
            guess, pattern = line.split(" ")
            assert pattern == feedback(guess, problem.answer)
            assert guess != problem.answer
    assert train[0].answer == train[60].answer
    assert train[0].prompt != train[60].prompt  # other clues of the same word


def test_the_game_replies_until_the_word_or_the_last_guess():
    task = make_task(n_turns=3)
    problem = frost(task)
    assert task.reply(problem, ["crane"]) == " -G---\n"
    assert task.reply(problem, ["crane", "Sport"]) == " Y-GYG\n"
    assert task.reply(problem, ["zzzzz"]) == " xxxxx\n"  # no word
    assert task.reply(problem, ["two words"]) == " xxxxx\n"
    assert task.reply(problem, ["crane", "frost"]) is None
    assert task.reply(problem, ["crane", "crane", "crane"]) is None
    assert task.reply(problem, ["crane -G---\nfrost"]) == " xxxxx\n"  # a reply of its own making is no guess


def test_every_reply_is_one_of_those_named_before():
    for style, wrap in (("bare", "{}"), ("tagged", "<guess>{}</guess>")):
        task = make_task(guess_style=style)
        problem, named = frost(task), set(task.possible_replies)
        assert len(named) == 3**5 + 1
        replies = {task.reply(problem, [wrap.format(word)]) for word in [*COMMON_WORDS[::5], "zzzzz"]} - {None}
        assert len(replies) > 20
        assert replies <= named


def test_a_tagged_guess_is_the_last_one_in_tags():
    task = make_task(guess_style="tagged")
    assert task.guess("I think <guess>crane</guess> no, <guess> Frost </guess>.") == "frost"
    assert task.guess("frost") is None
    assert task.guess("<guess>frosty</guess>") is None
    assert task.guess("<guess>frost</guess> <guess>no idea</guess>") is None
    assert "at most 6 guesses" in task.train_problem(0).prompt
    with_clues = make_task(guess_style="tagged", n_turns=1, n_clues=1).train_problem(3)
    guess, pattern = with_clues.row["clues"][0]
    assert f"\n{guess}: {' '.join(pattern)}" in with_clues.prompt


@pytest.mark.parametrize("style", ["bare", "tagged"])
@pytest.mark.parametrize("n", [4_000, 100_000])  # the first takes a pattern that tries all splits seconds, not hours
def test_a_long_turn_costs_no_more_than_reading_it(style, n):
    task = make_task(guess_style=style)
    turns = [f"<guess>{' ' * n}crane", f"{' ' * n}crane{' ' * n}!", f"<guess>{' ' * n}crane{chr(10) * n}x</guess>"]
    turns += ["<guess> " * (n // 8) + "crane", "<guess>" + "crane\n" * (n // 6)]
    for turn in turns:
        start_s = time.process_time()
        assert task.guess(turn) is None
        assert time.process_time() - start_s < 1
    assert make_task(guess_style="tagged").guess(f"<guess>\n{' ' * n}frost\t</guess>") == "frost"


@pytest.mark.parametrize(
    ("turns", "format_", "used", "dead", "invalid", "win"),
    [
        (["frost"], 1, 1, 0, 0, 1),  # nothing could be used, and nothing was wanted
        (["black"], 1, 0, 0, 0, 0),
        (["crane", "frost"], 1, 1, 0, 0, 1),  # uses the green R
        # CRANE kills C A N E and has R right; BLACK has two of the dead and not the R
        (["crane", "black"], 1, 0, -(2 / 5) / 2, 0, 0),
        # no word: R is used, nothing is answered, and FROST follows
        (["crane", "grgrg", "frost"], 1, (1 + 1) / 2, 0, -1 / 3, 1),
        # not five letters: what is known is not used
        (["crane", "who knows", "frost"], 2 / 3, (0 + 1) / 2, 0, 0, 1),
        (["", "?"], 0, 0, 0, 0, 0),
        # SPORT: green O T, yellow S R; ROAST: T, R and S are used and O is not; R in first place, S in fourth may be
        (["sport", "roast"], 1, 3 / 4, 0, 0, 0),
    ],
)
def test_rewards_worked_by_hand(turns, format_, used, dead, invalid, win):
    task = make_task(weights=(0.5, 0.5, 0.5, 0.5, 1.0))
    grades = task.grade_turns([frost(task)], [[turns]])
    got = [float(grades.named_rewards[name][0, 0]) for name in OWN_REWARDS]
    np.testing.assert_allclose(got, [format_, used, dead, invalid, win], atol=1e-6)
    np.testing.assert_allclose(grades.reward_PR, [[(format_ + used + dead + invalid) / 2 + win]], atol=1e-6)
    assert grades.is_correct_PR.tolist() == [[win == 1]]
    assert not grades.failures


def test_clues_of_the_prompt_are_known_from_the_first_guess_on():
    task = make_task(n_turns=1, n_clues=1)
    problem = frost(task, clues=[("crane", "-G---")])
    grades = task.grade([problem], [["black", "frost", "crust"]])
    np.testing.assert_allclose(grades.named_rewards["feedback"], [[0, 1, 1]])
    np.testing.assert_allclose(grades.named_rewards["dead_letters"], [[-2 / 5, 0, -1 / 5]], atol=1e-6)
    assert grades.is_correct_PR.tolist() == [[False, True, False]]
    assert grades.answers == (("black", "frost", "crust"),)


def test_right_demonstrations_fit_all_clues_and_wrong_ones_are_words():
    task, rng = make_task(n_clues=1), np.random.default_rng(0)
    n_won = 0
    for i in range(0, task.n_train, 30):
        problem = task.train_problem(i)
        turns = task.demonstrated_turns(problem, rng, p_correct=1.0)
        clues = list(problem.row["clues"])
        for guess in turns:
            assert is_consistent(guess, clues)
            clues.append((guess, feedback(guess, problem.answer)))
        n_won += turns[-1] == problem.answer
        assert len(turns) <= 6
        wrong = task.demonstrated_turns(problem, rng, p_correct=0.0)
        assert set(wrong) <= set(COMMON_WORDS)
    assert n_won > 20  # of 32: six guesses that fit mostly find one word of 75


def test_words_of_ones_own_are_the_secrets_and_more_may_be_guessed(tmp_path):
    words, more = tmp_path / "words.txt", tmp_path / "more.txt"
    words.write_text("Frost\ncrane\n\nsport\nroast\nblack\n")
    more.write_text("zzzzz\n")
    task = make_task(words=str(words), allowed_words=str(more), n_words=0)
    assert (task.n_train, task.n_heldout) == (4, 1)
    assert task.reply(frost(task), ["zzzzz"]) == " -----\n"
    assert task.reply(frost(task), ["about"]) == " xxxxx\n"
    other = make_task(words=str(words), n_words=0)
    assert task.fingerprint != other.fingerprint != ""
    assert make_task().fingerprint == ""


def test_too_few_words_or_more_than_there_are_are_refused(tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("frost\ncrane\n")
    with pytest.raises(ValueError, match="2 word"):
        make_task(words=str(words), n_words=0)
    with pytest.raises(ValueError, match=r"task\.n_words=9999 is more than"):
        make_task(n_words=9999)
