"""The words of sparrow's grammar, by their use in a sentence, and irregular verbs.

Names of lists and verb groups are slots of grammar.txt.
"""

NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fifteenth twentieth thirtieth last next"
)
DAYS = "monday tuesday wednesday thursday friday saturday sunday"
MONTHS = "january february march april may june july august september october november december"
SEASONS = "spring summer autumn winter"
NAMES = (
    "anna tom mary john peter lucy emma jack james sarah david laura robert alice george helen "
    "paul kate mark julia simon rachel daniel sophie michael nina martin clara oliver ruth henry "
    "rose frank grace ben lily sam maria adam eva leo jane charlie amy luke olivia max susan "
    "william sally thomas betty steven linda brian diana kevin nancy eric karen"
)
RELATIVES = (
    "mother father brother sister son daughter uncle aunt cousin grandmother grandfather wife "
    "husband nephew niece parents mum dad twin baby family"
)
PEOPLE = (
    "teacher doctor nurse neighbour friend boss farmer baker driver student child boy girl man "
    "woman king queen lawyer singer artist writer painter builder captain pilot sailor soldier "
    "policeman waiter cook dentist engineer scientist actor dancer guest stranger visitor "
    "shopkeeper gardener hunter judge manager tailor butcher fisherman postman mechanic lady "
    "gentleman thief hero president customer player coach priest secretary plumber musician"
)
CROWD = (
    "children people friends neighbours students teachers parents men women boys girls guests "
    "tourists farmers workers players soldiers doctors passengers visitors kids"
)
ANIMALS = (
    "dog cat horse cow sheep goat pig chicken duck goose rabbit mouse rat bird owl eagle crow "
    "sparrow pigeon fox wolf bear lion tiger elephant monkey snake frog turtle fish shark whale "
    "dolphin bee spider ant butterfly fly donkey deer squirrel hedgehog kitten puppy lamb parrot "
    "swan camel zebra giraffe penguin"
)
HERD = (
    "dogs cats horses cows sheep goats pigs hens ducks geese rabbits mice birds owls foxes wolves "
    "bears lions monkeys snakes frogs bees ants butterflies elephants deer puppies kittens"
)
FOODS = (
    "bread butter cheese soup salad rice pasta meat chicken beef pork fish fruit cake pizza "
    "chocolate sugar salt pepper honey jam ice cream yogurt potatoes tomatoes carrots onions beans "
    "peas mushrooms cabbage garlic corn nuts apples oranges bananas grapes cherries strawberries "
    "lemons peaches pears melon biscuits cookies pancakes sausages ham bacon eggs toast breakfast "
    "lunch dinner supper dessert vegetables sandwiches noodles cereal candy popcorn"
).replace("ice cream", "ice_cream")
MEALS = "breakfast lunch dinner supper"
SNACKS = (
    "apple orange banana sandwich cookie biscuit cake pie pizza egg carrot potato tomato onion "
    "lemon peach pear cherry salad sausage pancake steak burger meal snack"
)
DRINKS = "water milk tea coffee juice wine beer lemonade cocoa soda cider"
FURNITURE = (
    "table chair bed sofa desk shelf cupboard lamp carpet mirror clock curtain pillow blanket "
    "drawer bench stove oven fridge sink bath shower fireplace wardrobe bookcase television"
)
THINGS = (
    "book letter pen pencil bag box key phone camera radio watch ring coat hat shirt dress shoe "
    "umbrella ball toy doll knife fork spoon plate cup glass bottle basket bucket hammer rope "
    "candle newspaper magazine map ticket passport wallet suitcase picture painting guitar piano "
    "violin drum bicycle car boat kite present gift computer keyboard screen machine engine "
    "battery tool ladder needle button pocket scarf jacket sweater belt flag coin stamp card "
    "envelope notebook ruler brush comb towel soap bowl pot pan kettle teapot tray vase flower "
    "tent blanket torch lock chain wheel tyre photo film song story poem message parcel bell stick "
    "stone mirror necklace helmet sock skirt blouse uniform pillow chair lamp broom"
)
MANY = (
    "books letters pens bags boxes keys phones coats hats shirts shoes toys plates cups glasses "
    "bottles flowers cards stamps coins tickets photos pictures songs stories windows doors chairs "
    "cars socks gloves trousers boots jeans tools stones candles apples oranges eggs bananas "
    "dresses rings computers newspapers buttons lamps tables knives spoons dishes clothes glasses"
)
ROOMS = (
    "kitchen bathroom bedroom garden garage hall attic cellar office dining_room living_room "
    "balcony yard classroom corridor hotel_room"
)
PLACES = (
    "school park shop market station airport hospital church bank library museum theatre cinema "
    "restaurant hotel office factory farm village town city beach forest lake river mountain "
    "island castle bridge harbour garden field zoo bakery pharmacy post_office police_station "
    "supermarket university gym pool stadium playground bus_stop bar cafe garage house barn street "
    "valley desert coast countryside palace tower square corner door gate window"
)
TOWNS = (
    "london paris rome berlin madrid england france spain germany italy america china japan india "
    "africa europe canada australia scotland ireland wales russia new_york mexico brazil egypt"
)
VEHICLES = "train bus plane car taxi boat ship ferry truck van tram bicycle motorbike lorry"
NATURE = (
    "sun moon sky sea wind rain snow river lake mountain tree grass hill cloud star storm fire ice "
    "ocean wave leaf forest sand earth"
)
BODY = (
    "head hand foot arm leg eye ear nose mouth back knee finger tooth hair face neck shoulder "
    "stomach throat heart skin elbow thumb toe"
)
COLOURS = "red blue green yellow black white brown grey orange pink purple silver golden"
FEELINGS = (
    "happy sad angry tired hungry thirsty afraid proud lonely excited nervous bored worried sick "
    "calm surprised jealous sorry glad ashamed scared sleepy confused upset cheerful grateful"
)
MANNERS = (
    "kind friendly clever lazy brave honest polite rude shy quiet strong weak young old rich poor "
    "famous funny serious busy careful careless patient gentle cruel wise foolish tall short thin "
    "fat beautiful handsome pretty generous selfish curious stubborn healthy blind deaf married "
    "single ready late early right wrong"
)
QUALITIES = (
    "new old big small large little heavy light cheap expensive clean dirty beautiful ugly broken "
    "empty full long short round square soft hard warm cold wet dry dark bright strange simple "
    "useful useless wooden narrow wide thick thin sharp heavy modern ancient lovely favourite "
    "wonderful terrible perfect special plain huge tiny strong fresh loose tight smooth rough"
)
TASTES = (
    "sweet sour bitter salty fresh delicious hot cold spicy tasty good bad rotten ripe raw warm "
    "horrible excellent"
)
WEATHER = (
    "sunny rainy cloudy windy cold warm hot foggy stormy snowy dry wet freezing cool mild grey "
    "bright dark clear icy"
)
STATES = (
    "open closed empty full broken clean dirty ready gone here upstairs downstairs outside inside "
    "quiet dark warm cold locked safe free lost busy"
)
DEGREE = "very really quite too so rather almost always never often sometimes usually still"
FREQUENCY = "always never often sometimes usually rarely still just also only"
MANNER_ADVERBS = (
    "quickly slowly quietly loudly carefully happily sadly badly well easily suddenly together "
    "alone again early late hard gently politely angrily softly quite_well very_fast fast "
    "immediately perfectly safely nervously everywhere somewhere outside inside upstairs downstairs"
)
LANGUAGES = "english french spanish german italian chinese japanese russian latin arabic"
SUBJECTS = (
    "history music science art mathematics geography biology chemistry physics poetry medicine law "
    "religion politics"
)
SPORTS = "football tennis golf chess cards rugby cricket basketball hockey hide_and_seek"
IDEAS = (
    "idea problem question answer plan dream secret mistake reason chance choice difference lesson "
    "game party wedding holiday journey trip meeting job test exam race war peace truth lie joke "
    "rule law habit fear hope promise surprise accident noise sound smell voice price name date "
    "address number word sentence language country world life death health money time luck love "
    "news weather music work dinner evening future past history nature"
)
INSTITUTIONS = (
    "shop bank library museum office school market restaurant bakery pharmacy cafe cinema theatre "
    "post_office supermarket hotel pool zoo hospital gym bar factory"
)
LITTLE = (
    "about above across after again against ago all almost along already although always among and "
    "another any anybody anyone anything around as at away because been before behind being below "
    "beside best better between both bottom but by can could dear does down during each either "
    "else enough even ever every everybody everyone everything except far few for from had half "
    "has have hello here herself himself how however hundred if into itself later least less many "
    "maybe me might million more most much must my myself near neither no nobody none nothing now "
    "of off okay on once only onto or other our out over own perhaps please rather same several "
    "she should since some somebody someone something somewhere soon than thanks that the their "
    "them themselves then there these they this those thousand through till to today together "
    "tomorrow tonight toward under until up us well were what when where which while who whole "
    "whom whose why will with without would yes yesterday yet you your yourself goodbye sorry"
)
# base form, past, participle
_IRREGULAR_FORMS = (
    "eat ate eaten, drink drank drunk, buy bought bought, make made made, bring brought "
    "brought, find found found, lose lost lost, sell sold sold, break broke broken, hide hid "
    "hidden, keep kept kept, forget forgot forgotten, leave left left, throw threw thrown, "
    "steal stole stolen, see saw seen, meet met met, know knew known, hear heard heard, teach "
    "taught taught, sleep slept slept, run ran run, swim swam swum, sing sang sung, fall fell "
    "fallen, drive drove driven, fly flew flown, go went gone, come came come, ride rode "
    "ridden, say said said, think thought thought, feel felt felt, begin began begun, write "
    "wrote written, read read read, speak spoke spoken, understand understood understood, give "
    "gave given, take took taken, send sent sent, show showed shown, tell told told, get got "
    "got, choose chose chosen, draw drew drawn, build built built, hold held held, cut cut cut, "
    "put put put, catch caught caught, win won won, wear wore worn, pay paid paid, spend spent "
    "spent, lend lent lent, sit sat sat, stand stood stood, bite bit bitten, feed fed fed, "
    "fight fought fought, grow grew grown, shine shone shone, blow blew blown, rise rose risen, "
    "hurt hurt hurt, wake woke woken, lie lay lain, ring rang rung, dream dreamt dreamt, burn "
    "burnt burnt, learn learned learned, have had had, do did done, freeze froze frozen, shake "
    "shook shaken, become became become, hit hit hit"
)
IRREGULAR_VERBS = {
    verb: (past, participle)
    for verb, past, participle in (forms.split() for forms in _IRREGULAR_FORMS.split(", "))
}
VERBS = {
    "food": "eat cook buy order make like love want need try bring share finish taste prepare "
    "serve hate sell smell refuse prefer",
    "drink": "drink order pour want like need love bring spill buy finish prefer",
    "thing": "find lose buy sell carry fix repair clean break hide borrow keep forget open move "
    "wash drop bring leave throw steal return push pull touch use see want need like hold take "
    "choose notice cover lift paint draw count catch collect examine wrap pack",
    "person": "see meet help call visit know love like miss thank hear follow invite teach ask "
    "watch remember believe trust hug kiss marry find understand surprise annoy thank warn "
    "forgive welcome answer recognise ignore protect greet admire",
    "alone": "sleep laugh cry smile run swim dance sing walk work rest wait listen jump fall "
    "arrive leave shout whisper cough sneeze dream play study stop return disappear agree "
    "complain hurry relax travel wave",
    "go": "go walk run drive travel ride return hurry come cycle move rush fly",
    "say": "say think know hope believe hear feel guess remember promise forget notice decide",
    "give": "give show send bring lend sell offer pass throw read",
    "hobby": "like love enjoy hate start stop keep practise avoid",
    "plan": "want need plan try hope decide forget learn promise refuse agree begin prefer",
    "animal": "sleep run eat bark jump hide drink play bite escape rest wait swim climb breathe",
    "weather": "shine blow rise fall freeze disappear move change return",
    "transport": "leave arrive stop start go return",
    "mend": "repair fix clean check wash sell buy start stop park drive move",
    "build": "build paint design visit describe remember love like leave reach find watch",
    "read": "read write finish start understand translate discuss remember like enjoy",
}
