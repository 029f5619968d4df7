"""Scorers that a user might write."""


def length(prompts, responses):
    return [float(len(response)) for response in responses]


def vowels(prompts, responses):
    return [sum(letter in "aeiou" for letter in response) / (1 + len(response)) for response in responses]


def broken(prompts, responses):
    """As one that fails on few of many: what a function is tried on first, two responses, is too little."""
    return [float("nan") if index == 1 < len(responses) - 1 else 0.0 for index in range(len(responses))]


def undefined(prompts, responses):
    return [0.0, *(float("nan") for _ in responses[1:])]


def constant(prompts, responses):
    return [1.0 for _ in responses]


def of_prompt(prompts, responses):
    return [float(len(prompt)) for prompt in prompts]


def no_words(prompts, responses):
    return [len(response.split()[99]) for response in responses]


def one_list(responses):
    return [float(len(response)) for response in responses]


def nothing(prompts, responses):
    vowels(prompts, responses)
