import pytest

from ddpo.runtime.number_words import NUMBER_WORDS, with_digits

# Known independently of the code: places that a slip in the table would move.
KNOWN = {0: "zero", 1: "one", 9: "nine", 10: "ten", 12: "twelve", 13: "thirteen", 15: "fifteen", 18: "eighteen"}
KNOWN |= {19: "nineteen", 20: "twenty", 21: "twenty-one", 40: "forty", 58: "fifty-eight", 90: "ninety"}
KNOWN |= {99: "ninety-nine"}


def test_each_number_has_its_words_at_its_place():
    assert {number: NUMBER_WORDS[number] for number in KNOWN} == KNOWN
    assert len(NUMBER_WORDS) == len(set(NUMBER_WORDS)) == 100


def test_words_become_digits_again():
    for number, words in enumerate(NUMBER_WORDS):
        assert with_digits(f"the {words} cats") == f"the {number} cats"
        assert with_digits(words.replace("-", " ")) == str(number)


@pytest.mark.parametrize("text", ["someone", "the tenth", "one hundred", "weighty", "a cat"])
def test_what_is_no_such_number_stays(text):
    assert with_digits(text) == text
