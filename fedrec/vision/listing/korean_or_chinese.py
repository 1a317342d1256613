"""Tell Korean text from Chinese text where its bytes are valid in both.

Pairs of bytes from 0xB0A1 to 0xC8FE are Hangul syllables in EUC-KR, and frequent Chinese characters in GBK.
Which of them are meant follows from how frequent they are in each language.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

_HANGUL: Final = frozenset(
    "가각간갈감갑값강같개객거건걸검겉것게겨격견결경계고곡곤골곰공과관광교구국군굴권귀그근글금급기긴길김까깔깨꺼꼬꽃꾸"
    "꿈끈끼나낚난날남납내너널네넥녀년념노녹논놀농높누눈느는능니님다단달담당대더데도독돈돌동두둘드든들등디따딸때"
    "또뚜뜨라락란람랑래랙랜램랩량러런럭레렉렌려력련렬령례로록론롤료루룸류르른를름리린림립링마막만말망매머먹멀메멘"
    "면명모목몬몰몸무문물미민밀밍바박반받발밥방배백밴버번벌범법베벨벽변별병보복본볼봉부북분불브블비빈빙빛빨빵뽀사산"
    "살삼상새색샌생샤서석선설성세센셀셔션셋소속손솔송쇼수숙순술숨쉬슈스슬습승시식신실심싱싸쌀써쓰씨아악안알암압앞"
    "애액야약양어언얼업없에엔여역연열염영예오옥온올옷와완왕외요욕용우운울원월위유육윤은을음의이인일임입있자작잔"
    "잘잠장재저적전절점접정제조족존종좌주준줄중즈즐증지직진질집차착참창책처천철청체초촌총최추축출충취츠치친침카칸"
    "캐캔캡커컴컵케켓코콘콜콤쿠쿨큐크큰클키킨킹타탁탄탈탑태택터턴테텐텔토톤통투트특튼틀티틱팀팅파판팔팝패퍼페펜편"
    "평포폰폼표푸품풍프플피픽핀필하학한할함합항해핸행향허험헤현형호혼홀홍화환활황회획후훈휴흑흰히힐"
)
_HAN: Final = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种"
    "事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民"
    "第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月"
    "话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四"
    "神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非"
    "则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识"
    "候带导争运笔服装衣裤裙帽鞋袜包袋箱带表饰项链环戒指镯耳坠眼镜眼睛围巾手套皮革毛绒棉麻丝绸布料纱线针织牛仔衬衫外套"
    "大衣夹克风羽绒背心毛衣卫运动休闲男女童婴儿宝玩具车船飞机娃熊积木拼图球鞋靴拖凉高跟平底板沙发桌椅床柜灯杯碗盘碟"
    "筷勺锅壶瓶罐刀叉餐厨房卫浴毛巾被枕垫窗帘地毯画框花盆植物草树叶果蔬菜肉鱼虾蟹米面粉油盐酱醋糖茶酒奶咖啡饮料零食"
    "饼干糕点巧克力电脑手机相机键盘鼠标屏幕音响耳机充电线数码家居百货文具本子笔纸书籍杂志红黄蓝绿黑白灰紫粉橙棕银"
    "新旧款春夏秋冬商品图片照主图细节其他未分类测试练组号码尺寸大小长短宽窄厚薄品牌店铺价格促销折扣热卖推荐首页香水化妆"
    "护肤口红面膜洗发沐浴珠宝钻石翡翠玉器银饰手链脚链胸针发夹腰带领带雨伞钱公文行李旅户外露营帐篷睡渔具健身瑜伽泳"
)
_SYLLABLES, _CHARACTERS = 2350, 6763
_PRIOR: Final = math.log(3)
"""How much more likely Chinese is, before anything is seen."""


def _cost(sign: str, frequent: frozenset[str], *, share: float, of_all: int) -> float:
    if sign in frequent:
        return math.log(share / len(frequent))
    return math.log((1 - share) / (of_all - len(frequent)))


def chinese_likelihood(raws: Iterable[bytes]) -> float:
    """Return the logarithm of how likely texts are, were they Chinese in GBK; minus infinity if none can be.

    Args:
        raws: the texts.
    """
    return _likelihood(raws, "gbk", _HAN, share=0.75, of_all=_CHARACTERS)


def korean_likelihood(raws: Iterable[bytes]) -> float:
    """Return the logarithm of how likely texts are, were they Korean in EUC-KR; minus infinity as above.

    Args:
        raws: the texts.
    """
    return _likelihood(raws, "euc_kr", _HANGUL, share=0.9, of_all=_SYLLABLES)


def _likelihood(
    raws: Iterable[bytes], encoding: str, frequent: frozenset[str], *, share: float, of_all: int
) -> float:
    total = 0.0
    for raw in raws:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            return -math.inf
        total += sum(_cost(sign, frequent, share=share, of_all=of_all) for sign in text if sign > "\x7f")
    return total


def is_korean(raws: Iterable[bytes]) -> bool:
    """Return whether texts are more likely Korean in EUC-KR than Chinese in GBK.

    Args:
        raws: the texts; those that are invalid in one of the two decide nothing.
    """
    korean, chinese = 0.0, _PRIOR
    for raw in raws:
        try:
            syllables, characters = raw.decode("euc_kr"), raw.decode("gbk")
        except UnicodeDecodeError:
            continue
        korean += sum(_cost(s, _HANGUL, share=0.9, of_all=_SYLLABLES) for s in syllables if s >= "\uac00")
        chinese += sum(_cost(s, _HAN, share=0.75, of_all=_CHARACTERS) for s in characters if s >= "\u4e00")
    return korean > chinese
