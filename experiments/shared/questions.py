"""Questions for a small language model, written for `real_lm`: facts with one right answer, and open ones.

Every third question is held out: no pair for training comes from it.
"""

from typing import NamedTuple


class Fact(NamedTuple):
    """A question with one right answer.

    Attributes:
        question: the question.
        stem: the beginning of a sentence that the answer completes.
        answer: the answer.
    """

    question: str
    stem: str
    answer: str


FACTS = (
    Fact("What is the capital of France?", "The capital of France is", "Paris"),
    Fact("What is the capital of Japan?", "The capital of Japan is", "Tokyo"),
    Fact("What is the capital of Egypt?", "The capital of Egypt is", "Cairo"),
    Fact("What is the capital of Spain?", "The capital of Spain is", "Madrid"),
    Fact("What is the capital of Germany?", "The capital of Germany is", "Berlin"),
    Fact("What is the capital of Russia?", "The capital of Russia is", "Moscow"),
    Fact("What is the capital of China?", "The capital of China is", "Beijing"),
    Fact("What is the capital of Greece?", "The capital of Greece is", "Athens"),
    Fact("What is the capital of Austria?", "The capital of Austria is", "Vienna"),
    Fact("Which planet is the largest?", "The largest planet is", "Jupiter"),
    Fact("Which planet is nearest to the Sun?", "The planet nearest to the Sun is", "Mercury"),
    Fact("Which planet is called the Red Planet?", "The planet called the Red Planet is", "Mars"),
    Fact("Which ocean is the largest?", "The largest ocean is the", "Pacific"),
    Fact("Which desert is the largest hot desert?", "The largest hot desert is the", "Sahara"),
    Fact("Which mountain is the highest?", "The highest mountain is Mount", "Everest"),
    Fact("Which continent is the coldest?", "The coldest continent is", "Antarctica"),
    Fact("Which animal is the tallest?", "The tallest animal is the", "giraffe"),
    Fact("Which animal is the largest?", "The largest animal is the blue", "whale"),
    Fact("Which gas do plants take in?", "The gas that plants take in is carbon", "dioxide"),
    Fact("Which gas do people need to breathe?", "The gas that people need to breathe is", "oxygen"),
    Fact("Which metal is the lightest?", "The lightest metal is", "lithium"),
    Fact("What is frozen water called?", "Frozen water is called", "ice"),
    Fact("What do bees make?", "Bees make", "honey"),
    Fact("What do caterpillars become?", "Caterpillars become", "butterflies"),
    Fact("Who wrote Hamlet?", "Hamlet was written by William", "Shakespeare"),
    Fact("Who wrote Oliver Twist?", "Oliver Twist was written by Charles", "Dickens"),
    Fact("Who painted Guernica?", "Guernica was painted by Pablo", "Picasso"),
    Fact("Who proposed the theory of relativity?", "The theory of relativity was proposed by", "Albert"),
    Fact("Who first walked on the Moon?", "The first to walk on the Moon was Neil", "Armstrong"),
    Fact("Who was the first president of the United States?", "The first president was George", "Washington"),
    Fact("How many days are in a week?", "A week has", "seven"),
    Fact("How many months are in a year?", "The number of months in a year is", "twelve"),
    Fact("How many legs does a spider have?", "A spider has", "eight"),
    Fact("How many sides does a triangle have?", "A triangle has", "three"),
    Fact("In which country is the Great Wall?", "The Great Wall is in", "China"),
    Fact("In which country are the pyramids of Giza?", "The pyramids of Giza are in", "Egypt"),
    Fact("In which city is the Eiffel Tower?", "The Eiffel Tower is in", "Paris"),
    Fact("In which city is the Colosseum?", "The Colosseum is in", "Rome"),
    Fact("Which language is spoken in Brazil?", "The language spoken in Brazil is", "Portuguese"),
    Fact("Which language is spoken in Mexico?", "The language spoken in Mexico is", "Spanish"),
    Fact("Which organ pumps blood?", "The organ that pumps blood is the", "heart"),
    Fact("Which star is nearest to the Earth?", "The star nearest to the Earth is the", "Sun"),
    Fact("What colour is a ripe banana?", "A ripe banana is", "yellow"),
    Fact("What is the opposite of hot?", "The opposite of hot is", "cold"),
    Fact("What is a young dog called?", "A young dog is called a", "puppy"),
)
"""Facts that a small language model may know."""

OPEN = (
    "Give me a tip for sleeping better.",
    "Describe the sea.",
    "Why do people travel?",
    "Suggest a name for a cat.",
    "What makes a good friend?",
    "Tell me something about rain.",
    "Describe a quiet morning.",
    "What is love?",
    "Tell me about the moon.",
    "How can I feel happier?",
    "Describe a forest in autumn.",
    "What should I do on a Sunday?",
    "Tell me about winter.",
    "What does music do to us?",
    "Describe a small village.",
    "What is a good life?",
    "Give me an idea for a gift.",
    "Tell me about birds.",
    "Why do we dream?",
    "Describe a river.",
    "What is courage?",
    "Suggest something to cook.",
    "Tell me about the night sky.",
    "How do I start a garden?",
    "What is time?",
    "Describe an old house.",
    "Why are books important?",
    "Tell me about the wind.",
    "What is home?",
    "How can I learn to draw?",
    "Describe a busy market.",
    "What is beauty?",
    "Tell me about spring.",
    "Why do people sing?",
    "Describe a mountain.",
    "What makes a day special?",
    "Give me advice for a hard day.",
    "Tell me about trees.",
    "What is silence?",
    "Describe a storm.",
    "Why do we need rest?",
    "Tell me about fire.",
    "What is hope?",
    "Suggest a walk.",
    "Describe the desert.",
)
"""Questions with many good answers."""
