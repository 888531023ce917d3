"""Everyday sentences that describe no molecule: what a query far outside the data looks like.

Written for this package: many topics and lengths, and no chemistry. Sentences that stand at even
places (from 0) choose how strangeness is measured, the others measure how well that does.
"""

from __future__ import annotations

_TEXT = """
The last train to the coast leaves at a quarter past eleven from platform four.
We packed two jackets each, although the forecast promised a week without rain.
Could you tell me where the museum keeps its collection of old maps?
She missed her flight because the shuttle from the hotel was stuck behind a parade.
The border guard stamped our passports without looking up from his newspaper.
Rent a bicycle near the harbour and follow the path along the cliffs until you reach the lighthouse.
Tourists crowd the old town in August, but in November you may have the squares to yourself.
Our guide spoke five languages and told the same joke in each of them.
Window seat, please.
The campsite has showers, a small shop, and a field where children play football in the evening.
After three days of walking, the pilgrims saw the towers of the cathedral above the wheat.
Bring cash, since few of the mountain huts accept cards.
The ferry was cancelled, so the band played an extra hour for the passengers who were left behind.
He keeps a list of every bridge that he has ever crossed on foot.
The visa office opens at nine and closes whenever the queue is gone.
Beat the eggs until they are pale, then fold them gently into the batter.
My grandmother never measured anything, and her bread was different every Sunday.
Leave the dough under a cloth overnight and shape it in the morning.
The soup needs another ten minutes and a little more pepper.
They argued for an hour about whether tomatoes belong in the stew.
Dinner is ready!
Slice the onions thinly and let them soften slowly in a wide pan while you wash the rice.
The baker on the corner sells out of plum cake before most people are awake.
A good knife, a heavy board, and patience are all that a beginner needs in the kitchen.
He ordered the soup, changed his mind, and finally asked for whatever the cook was eating.
The tablecloth still shows where the wine was spilled at last year's wedding.
Children under six eat for half the price on weekdays.
Stir it clockwise, my aunt insisted, or it will never thicken.
The picnic ended when a dog ran off with the sausages.
We grow beans along the fence and pick them before the summer holidays.
The goalkeeper guessed the right corner and pushed the ball against the post.
Her personal best over ten kilometres has stood for almost nine years.
The match was abandoned at half-time because the pitch was under water.
Two substitutes scored in the final minutes and turned the game around.
Offside again.
The coach asked the players to forget the table and think only of Saturday.
Cyclists climbed the pass in thick fog, guided by the bells of the cows beside the road.
A rower needs strong legs, a calm head, and someone who wakes them at five.
The referee consulted his assistant before showing the second yellow card.
Tickets for the semi-final were gone within twenty minutes.
He learned to swim at forty and crossed the lake at forty-three.
The marathon starts at the town hall, follows the river twice, and ends inside the stadium.
Nobody expected the youngest team of the league to win away from home.
She tied her laces twice for luck and walked to the starting line.
The chess club meets on Tuesdays in the back room of the library.
The tenant must give notice in writing at least three months before moving out.
The court found that the contract had been signed under pressure and was therefore void.
A witness may refuse to answer a question that would incriminate a close relative.
The lawyer asked for a short recess to consult with her client.
Objection overruled.
Parliament passed the bill with a narrow majority after a debate that lasted until dawn.
The new regulation obliges landlords to install smoke alarms in every bedroom.
Both parties agree to settle any dispute before the courts of the city where the seller resides.
The judge reminded the jury that silence is not an admission of guilt.
He appealed the parking fine on the grounds that the sign had been hidden by a tree.
The inheritance was divided equally between the four sisters and a distant cousin.
Voters will be asked in spring whether the mayor should serve a second term.
The treaty was signed in three languages, each of them equally binding.
The police returned the stolen violin to its owner after eleven years.
Minors need the consent of a parent or guardian to enter into this agreement.
Heavy snow is expected above eight hundred metres from Thursday evening.
The fog lifted around noon and the hills came into view.
A warm wind from the south melted the last drifts behind the barn.
It rained on the day of the fair, as it does every year.
Storm warnings were issued for the northern islands, and fishing boats stayed in port.
Partly cloudy.
After the driest April in a century, farmers are watching the sky with growing concern.
The thunder came so late that we counted to twenty and thought the storm had passed.
Frost drew ferns on the kitchen window.
Temperatures will fall below zero overnight, so cover your plants and drive with care.
The hurricane turned away from the coast only hours before it was due to arrive.
You can smell the rain before it reaches the valley.
The orchestra tuned for so long that the audience began to applaud.
She plays the cello in a quartet that meets every other Friday.
The second movement opens with a lonely oboe over soft strings.
His first novel was rejected by fourteen publishers and has never been out of print since.
The painter mixed sand into the background to make the wall look older.
Encore!
The exhibition brings together letters, sketches, and photographs from the architect's early years.
In the final scene, the two brothers meet on a bridge and say nothing.
The poem has no rhyme, but each line ends with the name of a river.
A choir of two hundred children sang from the steps of the town hall.
The director filmed the whole story in one apartment and a single afternoon.
The gallery is closed on Mondays, except when Monday is a public holiday.
Critics praised the costumes and were silent about the play.
He can whistle every theme from the opera but has never seen it on stage.
The drummer lost a stick in the first song and finished with a wooden spoon.
Library books may be renewed twice unless another reader has asked for them.
The committee will publish its findings at the end of the month.
Please sign the attendance list and take a seat near the front.
The meeting was moved to Wednesday because half the department is on holiday.
Our quarterly report shows a modest rise in sales and a sharp fall in complaints.
Kindly find the invoice attached to this message.
The new intern fixed the printer that everyone else had given up on.
Employees who cycle to work may use the showers on the ground floor.
She negotiated a four-day week and a desk beside the window.
The warehouse ships orders placed before noon on the same day.
We are looking for a cheerful receptionist with experience in a busy practice.
The bakery chain plans to open twelve more branches before Christmas.
Out of office until Monday.
The share price fell by a tenth after the chairman announced his retirement.
He started the company in a garage with a borrowed lathe and two friends.
The bank raised its interest rate for the third time this year.
Inflation slowed in September, although rents kept climbing in most large cities.
The auditor found a box of unpaid bills behind the filing cabinet.
Shoppers queued around the block for the reopening of the department store.
The strike ended after the drivers were promised longer breaks.
If the package is damaged, refuse delivery and notify the sender the same day.
The budget leaves no room for a second playground.
Plant the bulbs in October, twice as deep as they are tall.
The hedgehog under our shed wakes up every evening around eight.
Swallows have nested above the stable door for as long as anyone remembers.
A fox crossed the tram lines, looked both ways, and trotted into the park.
The puppy chewed one shoe of every pair in the hallway.
Prune the roses before the first warm days, and do not be timid.
Our neighbour's cat visits three houses and is called something different in each.
Whales were seen from the pier for the first time since the war.
The old oak was struck by lightning, yet it still puts out leaves each May.
Watering in the evening keeps the lawn green, but the snails like it too.
The shepherd counts his flock by knots on a string.
Bees returned to the meadow once the mowing was put off until July.
Meow.
The horse refused the last fence and walked calmly back to the gate.
In autumn, the cranes gather on the mudflats before flying south.
The zoo named its newborn giraffe after the first visitor of the day.
The bus was so full that the driver let people board through the back door.
Roadworks will close the tunnel for six weekends in a row.
The car would not start, so we pushed it to the top of the hill.
Trams run every seven minutes until midnight and every half hour after that.
Mind the gap.
A cyclist waved to thank the lorry driver who had waited behind her.
The new station has eleven entrances, and nobody ever uses the grand one.
Her motorbike is older than she is and starts at the first kick.
Keep your ticket until you have left the platform.
The pilot apologised for the delay and blamed a missing pair of headphones.
Turn left at the church, pass the mill, and ask again at the pub.
Two lanes were closed after a truck lost its load of pumpkins.
They widened the road, and the traffic grew to fill it.
The elevator is out of order; please use the stairs behind reception.
Pupils are expected to hand in their essays on the first day of term.
The history teacher drew the whole campaign on the blackboard from memory.
Homework is due tomorrow.
She is learning to read music and already plays simple tunes with both hands.
The school play needs a dragon, two trumpeters, and someone to hold the moon.
He failed the driving test twice because he was too polite at crossings.
The university library stays open all night during the examination period.
Parents are invited to an evening about bullying and how to talk about it.
The spelling contest was won by a boy who had moved to the country a year before.
In kindergarten the children sleep after lunch, or at least pretend to.
A grant allowed the village to hire a second teacher.
Learn ten new words a day and use each of them in a sentence.
The professor lost her notes and gave the best lecture of her career.
The castle was besieged twice and taken only by treachery.
The empire fell slowly, and most people hardly noticed at the time.
Archaeologists uncovered the floor of a Roman bathhouse beneath the car park.
The king abdicated in favour of his nephew and retired to a monastery.
Letters from the front arrived weeks late, with whole lines blacked out.
The printing press arrived in the city in the year of the great flood.
During the siege, the citizens melted the bells of their church for cannon.
The explorers wintered in a hut built from the planks of their own ship.
Nobody knows who carved the stone faces on the hillside.
The revolution began with the price of bread.
The monks copied the chronicle by hand for nearly two centuries.
She was the first woman to sit on the town council.
Long ago, before the railway came, it took four days to reach the capital.
Once upon a time there was a tailor who could not thread a needle.
The phone rang seven times before anyone in the house was willing to get up.
Forgot my password again.
The update removed the button that everybody used and added three that nobody wanted.
Hold the power key for ten seconds until the screen goes dark.
My laptop fan is louder than the vacuum cleaner.
The app counts steps, and it congratulates me when I walk to the fridge.
Her videos about mending clothes are watched by two million people.
The email went to the whole company instead of to one colleague.
A software bug gave every customer the same birthday.
The museum's robot guide got lost in the hall of mirrors.
Please charge the camera tonight and empty the memory card.
The game is easy to learn, but it takes years to become good at it.
Scroll to the bottom of the page and accept the terms and conditions.
The radio only works if you stand next to it with one arm raised.
The satellite sent back pictures of a canyon longer than the continent is wide.
We watched the eclipse through a hole in a piece of cardboard.
The telescope was carried up the mountain by mules.
A comet last seen by our great-grandparents returns next spring.
The nurse on the night shift knows every patient by first name.
Rest your ankle for a week and then begin with short walks.
The dentist hums while he works.
He sprained his wrist while opening a jar of pickles.
A good night's sleep will do more for you than another cup of coffee.
The waiting room has fish, magazines from last winter, and a clock that has stopped.
Stand straight, breathe in through the nose, and let your shoulders drop.
The ambulance arrived within six minutes despite the snow.
My doctor told me to take the stairs and to worry less.
She donated blood on her birthday, as she does every year.
The yoga class is full, but you can join the waiting list.
The twins were born on either side of midnight and have different birthdays.
Happy birthday!
They have been married for fifty years and still disagree about the thermostat.
He proposed on a ferry and dropped the ring into a lifeboat.
My brother lives upstairs and borrows the ladder more often than I use it.
The whole family gathers in the garden when the cherries are ripe.
Her father taught her to drive on an empty airfield.
We named the baby after a great-aunt whom none of us had ever met.
The babysitter knows more card tricks than bedtime stories.
The reunion was planned for years and rained out in ten minutes.
I promised my niece that I would come to her recital, and I mean to keep that promise.
The neighbours apologised for the noise with a basket of pears.
No dogs on the beach between May and September.
The kitchen was painted yellow, then green, and then yellow again.
A leaking tap kept the guests awake all night.
The wardrobe would not fit through the door, so they took out the window.
The roof must be mended before winter, whatever it costs.
Two rooms, a balcony, and a view of the railway yard.
The landlord lives abroad and answers letters twice a year.
Hang the picture a little higher and a hand's breadth to the left.
The carpenter built the staircase without a single nail.
I cannot find the other sock.
The cellar floods whenever the river does, so we keep nothing there but boots.
Measure twice, cut once, and sweep up before your mother comes home.
The lamp on the landing flickers when somebody uses the toaster.
They sold the farmhouse and bought a boat that neither of them can sail.
The dress was altered three times and fitted perfectly on the day.
Stripes are back in fashion, according to the woman who cuts my hair.
The cobbler on Mill Lane will mend your boots while you wait.
His coat has eleven pockets, and he never knows which one holds the keys.
She knitted the scarf on trains, and it is as long as her commute.
The suit is too wide at the shoulders but otherwise fine.
Wash the sweater by hand and dry it flat on a towel.
Courage is not the absence of fear but the habit of going on anyway.
Is it ever right to break a promise in order to spare someone pain?
The village priest keeps bees and speaks of them in nearly every sermon.
On the first night of the festival, lanterns are set adrift on the lake.
Fasting ends at sunset with dates, soup, and a long table of relatives.
The mayor opened the carnival by handing the city keys to a clown.
He who laughs last did not get the joke.
Time seems to pass more quickly the older we become.
I dreamt that the house had an extra room full of snow.
The committee could not agree on a colour for the flag, so they chose all of them.
Thank you for your patience.
Nothing in the letter explained why she had left or whether she meant to return.
The crowd fell silent when the old man began to sing.
Somewhere in the attic there is a box with all the photographs from that summer.
The election was decided by eleven votes, four of which were cast by the candidate's own cousins.
Reporters waited outside the ministry until the spokesman came down with coffee for everyone.
The senator denied having seen the document, which bore her signature on every page.
Firefighters rescued a parrot, a sofa, and a man who would not leave without either.
Thousands marched through the capital on Sunday to demand cheaper housing and better trains.
Volunteers filled sandbags through the night while the river rose another hand's breadth.
An unknown visitor has left a single white glove at the monument every March for thirty years.
We left the city before sunrise, drove south along the river until the road turned to gravel, and reached the cabin just as the first walkers were coming down from the ridge with muddy boots and sunburnt faces.
For the filling, grate two apples and a carrot, add a handful of raisins and the juice of half a lemon, and let the mixture stand while you roll out the pastry as thinly as you dare on a floured table.
The defender, who had only returned from injury the week before, slipped on the wet grass, lost the ball to the smallest player on the pitch, and could only watch as it rolled past the keeper and over the line.
This agreement begins on the day on which both parties have signed it, continues for a period of two years, and is renewed each time for one further year unless one of the parties objects in writing no later than six weeks before its end.
A ridge of high pressure over the continent brings dry and sunny days to the lowlands, while in the mountains clouds build up every afternoon, and a few of them may grow into showers with gusts and hail before the evening.
The concert opened with a march that everyone knew, went on with a piece for solo harp that nobody knew, and closed, after a long pause and some whispering between the conductor and the first violin, with a waltz.
When the factory closed its gates for the last time, the brass band of the workers played in the yard, the director shook every hand, and somebody wrote the names of all four hundred people in chalk on the wall.
To assemble the shelf, lay both side panels on the floor with the holes facing upwards, push the wooden dowels into the lower row, slide in the middle board, and tighten the screws only when everything stands straight.
At the harvest fair there is a prize for the heaviest pumpkin, another for the straightest furrow, and a third, which is the most fiercely contested, for the scarecrow that looks most like a member of the parish council.
I am writing to complain about the room in which we were placed, since it faced the motorway, the shower ran cold on two of the three mornings, and the view of the sea that you advertise could be had only from the fire escape.
In the year after the war there was hardly a pane of glass left in the street, and families moved together into the two houses that still had roofs, sharing one stove, one table, and a single pair of good winter boots.
Hold the tablet upright, choose the language in the upper corner, type the number that we sent to your phone, and wait until the circle stops turning; if it never does, close the window and begin again from the start.
The patient came to the practice because she had trouble sleeping, and it turned out that her neighbour had begun to learn the trumpet, practised after his late shift, and lived on the other side of a very thin wall.
Grandfather told the story differently each time, so that in one version he had walked home through the snow, in another he had ridden on the milk cart, and in the last one, which we liked best, he had been carried by a bear.
The dressmaker took the measurements twice, pinned the hem, stepped back to the door, shook her head, and started once more from the left, humming all the while a tune that had been popular when she was an apprentice.
Whoever believes that the aim of a conversation is to win it has misunderstood both winning and conversation, for what remains after a good one is seldom a conclusion, and more often a question that neither side had when it began.
Residents of the upper district are asked to move their cars by Friday noon, because the water main below the market square is to be replaced and the whole street, including both pavements, will remain closed for about ten days.
The tortoise escaped in May, was seen in June beside the allotments, crossed the football ground in July during a match, and came back through the hole in the hedge on the first cool morning of September as if nothing had happened.
Passengers travelling with small children, and all those who need more time, are invited to board first; everyone else is kindly asked to remain seated until the number of their row is called and to have their papers ready.
The class spent a week by the sea, where the pupils learned to read a tide table, to cook for thirty, to fall asleep in spite of six snoring friends, and to write postcards, which arrived long after they did.
Investors had hoped that the merger would calm the market, but when the two chairmen appeared on the stage and each of them introduced himself as the head of the new group, shares in both companies fell by more than a fifth.
The lighthouse was built of grey stone on a rock that is dry for only three hours a day, so the masons rowed out with every tide, laid a dozen blocks, and rowed back, and the work took them eleven summers.
"""  # noqa: E501

SENTENCES = tuple(_TEXT.strip().splitlines())
