"""Made-up but valid personal data and secrets: correct check digits, and the issuers' lengths and alphabets.

Nothing here belongs to anybody. A seeded generator builds the values, so that no file of this repository contains one.
"""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable

Draw = random.Random
ALNUM, HEX, UPPER = string.ascii_letters + string.digits, "0123456789abcdef", string.ascii_uppercase + string.digits
WORD, B64 = ALNUM + "_-", ALNUM + "+/"


def chars(draw: Draw, alphabet: str, length: int) -> str:
    """Return random characters."""
    return "".join(draw.choices(alphabet, k=length))


def _digits(draw: Draw, length: int) -> str:
    return chars(draw, string.digits, length)


def _name(draw: Draw) -> str:
    return draw.choice(("lena.vogt", "t.okafor", "maria_silva", "jpark88", "d.novak", "sofie.lund", "ravi.menon", "c.delacroix"))


def email(draw: Draw) -> str:
    return (
        f"{_name(draw)}{draw.randrange(100)}@{draw.choice(('gmail.com', 'web.de', 'orange.fr', 'uol.com.br', 'proton.me', 'outlook.com'))}"
    )


def phone(draw: Draw) -> str:
    return draw.choice(
        (
            f"+49 {draw.randint(151, 179)} {_digits(draw, 7)}",
            f"+1 {draw.randint(201, 989)} {draw.randint(201, 989)} {_digits(draw, 4)}",
            f"+33 6 {' '.join(_digits(draw, 2) for _ in range(4))}",
            f"+44 7{_digits(draw, 3)} {_digits(draw, 6)}",
        )
    )


def french_phone(draw: Draw) -> str:
    return f"0{draw.randint(6, 7)} " + " ".join(_digits(draw, 2) for _ in range(4))


def chinese_phone(draw: Draw) -> str:
    return f"1{draw.choice('35789')}{_digits(draw, 9)}"


def card(draw: Draw) -> str:
    body = draw.choice(("4", "51", "55", "2221")) + _digits(draw, 16)
    body = body[:15]
    total = sum(sum(divmod(int(digit) * 2, 10)) if place % 2 == 0 else int(digit) for place, digit in enumerate(body))
    return body + str(-total % 10)


def iban(draw: Draw) -> str:
    country, bban = draw.choice(
        (("DE", _digits(draw, 18)), ("NL", "INGB" + _digits(draw, 10)), ("ES", _digits(draw, 20)), ("FR", _digits(draw, 23)))
    )
    check = 98 - int("".join(str(int(one, 36)) for one in f"{bban}{country}00")) % 97
    return f"{country}{check:02}{bban}"


def ssn(draw: Draw) -> str:
    return f"{draw.randint(101, 665)}-{draw.randint(10, 99)}-{draw.randint(1000, 9999)}"


def ip(draw: Draw) -> str:
    return f"{draw.choice((84, 91, 178, 217))}.{draw.randint(16, 200)}.{draw.randint(1, 254)}.{draw.randint(1, 254)}"


def ipv6(draw: Draw) -> str:
    return "2a02:8109:" + ":".join(chars(draw, HEX, 4) for _ in range(6))


def mac(draw: Draw) -> str:
    return ":".join(["3c", *(chars(draw, HEX, 2) for _ in range(5))])


def cpf(draw: Draw) -> str:
    from stdnum.br import cpf as scheme

    body = _digits(draw, 9)
    return str(scheme.format(body + scheme._calc_check_digits(body)))


def cnpj(draw: Draw) -> str:
    from stdnum.br import cnpj as scheme

    body = _digits(draw, 8) + "0001"
    return str(scheme.format(body + scheme.calc_check_digits(body)))


def nir(draw: Draw) -> str:
    body = f"{draw.choice('12')}{draw.randint(40, 99)}{draw.randint(1, 12):02}{draw.randint(10, 89)}{_digits(draw, 6)}"
    return f"{body}{97 - int(body) % 97:02}"


def bsn(draw: Draw) -> str:
    while True:
        body = str(draw.randint(10_000_000, 99_999_999))
        check = sum(int(digit) * weight for digit, weight in zip(body, range(9, 1, -1), strict=True)) % 11
        if check < 10:
            return body + str(check)


def chinese_id(draw: Draw) -> str:
    from stdnum.cn import ric

    born = f"{draw.randint(1950, 2004)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
    body = f"{draw.choice(('110105', '310101', '440106'))}{born}{_digits(draw, 3)}"
    return body + str(ric.calc_check_digit(body + "0"))


def aws(draw: Draw) -> str:
    return "AK" + "IA" + chars(draw, string.ascii_uppercase + "234567", 16)


def aws_secret(draw: Draw) -> str:
    return chars(draw, B64, 40)


def google(draw: Draw) -> str:
    return "AI" + "za" + chars(draw, WORD, 34) + "k"


def azure(draw: Draw) -> str:
    return base64.b64encode(draw.randbytes(64)).decode()


def github(draw: Draw) -> str:
    return draw.choice(("gh" + "p_", "gh" + "o_", "gh" + "s_")) + chars(draw, ALNUM, 36)


def github_fine(draw: Draw) -> str:
    return "github" + "_pat_" + chars(draw, ALNUM, 22) + "_" + chars(draw, ALNUM, 59)


def gitlab(draw: Draw) -> str:
    return draw.choice(("gl" + "pat-", "gl" + "dt-", "gl" + "rt-")) + chars(draw, WORD, 19) + "x"


def slack(draw: Draw) -> str:
    return f"{'xo' + 'x' + draw.choice('bp')}-{_digits(draw, 12)}-{_digits(draw, 12)}-{chars(draw, ALNUM, 24)}"


def stripe(draw: Draw) -> str:
    return draw.choice(("sk" + "_live_", "rk" + "_live_", "sk" + "_test_")) + chars(draw, ALNUM, 24)


def llm(draw: Draw) -> str:
    return draw.choice(("sk-" + "proj-", "sk-" + "ant-api03-", "sk-" + "or-v1-", "gs" + "k_")) + chars(draw, ALNUM, 48)


def hub(draw: Draw) -> str:
    return draw.choice(("h" + "f_", "np" + "m_", "dck" + "r_pat_")) + chars(draw, ALNUM, 36)


def mailer(draw: Draw) -> str:
    return "S" + "G." + chars(draw, WORD, 21) + "a." + chars(draw, WORD, 42) + "a"


def bot(draw: Draw) -> str:
    return _digits(draw, 10).replace("0", "7") + ":A" + "A" + chars(draw, WORD, 32) + "z"


def twilio(draw: Draw) -> str:
    return "S" + "K" + chars(draw, HEX, 32)


def _segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwt(draw: Draw) -> str:
    body = f'{{"sub":"{_digits(draw, 8)}","iat":17{_digits(draw, 8)}}}'
    return ".".join((_segment(b'{"alg":"HS256","typ":"JWT"}'), _segment(body.encode()), _segment(draw.randbytes(32))))


def pem(draw: Draw) -> str:
    lines = "\n".join(base64.b64encode(draw.randbytes(48)).decode() for _ in range(6))
    kind = draw.choice(("RSA ", "", "OPENSSH ", "EC "))
    return f"-----BEGIN {kind}PRIV" + f"ATE KEY-----\n{lines}\n-----END {kind}PRIV" + "ATE KEY-----"


def age(draw: Draw) -> str:
    return "AGE-SEC" + "RET-KEY-1" + chars(draw, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58)


def password(draw: Draw) -> str:
    return (
        draw.choice(("Regen", "tiger", "Winter", "m0nkey", "Blau", "sunny"))
        + draw.choice("!#*_.$")
        + chars(draw, ALNUM, 4)
        + str(draw.randint(10, 99))
    )


def opaque(draw: Draw) -> str:
    return chars(draw, ALNUM, 32) + "7aQ"


def hexed(draw: Draw) -> str:
    return chars(draw, HEX, 32)


def pin(draw: Draw) -> str:
    return _digits(draw, 4)


def basic(draw: Draw) -> str:
    return base64.b64encode(f"{_name(draw)}:{password(draw)}".encode()).decode()


def spaced(text: str, size: int = 4, by: str = " ") -> str:
    """Return the text in groups of characters."""
    plain = "".join(one for one in text if one.isalnum())
    return by.join(plain[start : start + size] for start in range(0, len(plain), size))


def wide(text: str) -> str:
    """Return the text in full-width characters."""
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)


def woven(text: str, with_: str = "\u200b") -> str:
    """Return the text with an invisible character after every third."""
    return with_.join(text[start : start + 3] for start in range(0, len(text), 3))


def quoted(text: str) -> str:
    """Return the text with its punctuation percent-encoded."""
    return "".join(one if one.isalnum() or one in "-._~" else f"%{ord(one):02X}" for one in text)


def entities(text: str) -> str:
    """Return the text with its punctuation as HTML entities."""
    return "".join(one if one.isalnum() or one == " " else f"&#{ord(one)};" for one in text)


def bold(text: str) -> str:
    """Return the text with its digits in mathematical bold."""
    return "".join(chr(0x1D7CE + int(one)) if one.isdigit() and one.isascii() else one for one in text)


def spelled(text: str) -> str:
    """Return an address in the form that people write for people."""
    return text.replace("@", " [at] ").replace(".", " [dot] ")


Make = Callable[[Draw], str]
